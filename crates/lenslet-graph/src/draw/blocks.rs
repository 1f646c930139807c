//! Boxes that belong together, equal ones that stand in a row, and modules as one box.

use std::collections::{BTreeSet, HashMap};

use super::{Block, Drawing, Look, Unit};

/// Puts the boxes of modules that join branches on common ground.
pub(super) fn grouped(mut drawing: Drawing) -> Drawing {
    let joins = drawing.units.iter().filter(|unit| unit.look == Look::Join);
    let modules: BTreeSet<String> = joins
        .map(|unit| unit.module.clone())
        .filter(|module| !module.is_empty())
        .collect();
    let is_inside = |path: &str, module: &str| {
        let rest = path.strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let outermost = modules.iter().filter(|module| {
        let mut others = modules.iter().filter(|other| other != module);
        !others.any(|other| is_inside(module, other))
    });
    drawing.blocks = outermost
        .map(|name| Block {
            name: name.clone(),
            times: 1,
        })
        .collect();
    for unit in &mut drawing.units {
        let mut blocks = drawing.blocks.iter();
        unit.block = blocks.position(|block| is_inside(&unit.module, &block.name));
    }
    drawing
}

/// What a block looks like from outside: its boxes, and which of them read which.
#[derive(PartialEq)]
struct Shape<'a> {
    boxes: Vec<(&'a str, &'a str, &'a str, Vec<Option<usize>>)>,
}

/// The boxes of a block.
struct Span {
    block: usize,
    units: Vec<usize>,
    /// The only box outside that is read.
    before: usize,
}

/// Draws equal blocks in a row once.
pub(super) fn folded(drawing: Drawing) -> Drawing {
    let Drawing {
        mut units,
        mut blocks,
    } = drawing;
    let spans: Vec<Span> = (0..blocks.len())
        .filter_map(|block| span(&units, block))
        .collect();
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by_key(|span| span.units[0]);
    let mut gone: Vec<usize> = Vec::new();
    let mut instead: HashMap<usize, usize> = HashMap::new();
    let mut kept: Option<&Span> = None;
    let mut last: Option<&Span> = None;
    for &span in &spans {
        if let (Some(first), Some(before)) = (kept, last)
            && Some(&span.before) == before.units.last()
            && shape(&units, first) == shape(&units, span)
        {
            blocks[first.block].times += 1;
            gone.extend(&span.units);
            let ends = (span.units.last(), first.units.last());
            if let (Some(&from), Some(&to)) = ends {
                instead.insert(from, to);
            }
        } else {
            kept = Some(span);
        }
        last = Some(span);
    }
    for unit in &mut units {
        for input in &mut unit.inputs {
            while let Some(&other) = instead.get(input) {
                *input = other;
            }
        }
    }
    without(units, blocks, &gone)
}

fn shape<'a>(units: &'a [Unit], span: &Span) -> Shape<'a> {
    let place = |input: &usize| span.units.iter().position(|unit| unit == input);
    let boxes = span.units.iter().map(|&i| {
        let unit = &units[i];
        let inputs = unit.inputs.iter().map(place).collect();
        (
            unit.label.as_str(),
            unit.detail.as_str(),
            unit.shape.as_str(),
            inputs,
        )
    });
    Shape {
        boxes: boxes.collect(),
    }
}

/// The boxes of a block that reads one box outside and is read at its last box only.
fn span(units: &[Unit], block: usize) -> Option<Span> {
    let inside = |i: &usize| units[*i].block == Some(block);
    let members: Vec<usize> = (0..units.len()).filter(inside).collect();
    let last = *members.last()?;
    let reads = members.iter().flat_map(|&i| &units[i].inputs);
    let outside: BTreeSet<usize> = reads.copied().filter(|i| !inside(i)).collect();
    let single = outside.len() == 1;
    let before = *outside.first().filter(|_| single)?;
    let read_outside = (0..units.len())
        .filter(|i| !inside(i))
        .flat_map(|i| &units[i].inputs)
        .filter(|i| inside(i));
    let closed = read_outside.copied().all(|i| i == last);
    closed.then_some(Span {
        block,
        units: members,
        before,
    })
}

fn without(units: Vec<Unit>, blocks: Vec<Block>, gone: &[usize]) -> Drawing {
    let mut moved = vec![0; units.len()];
    let mut kept = Vec::new();
    for (i, unit) in units.into_iter().enumerate() {
        moved[i] = kept.len();
        if !gone.contains(&i) {
            kept.push(unit);
        }
    }
    for unit in &mut kept {
        for input in &mut unit.inputs {
            *input = moved[*input];
        }
    }
    Drawing {
        units: kept,
        blocks,
    }
}

/// Boxes in a row that `key` gives the same name become one box of that name.
pub(super) fn collapsed(units: Vec<Unit>, key: impl Fn(&Unit) -> Option<String>) -> Drawing {
    let mut found: Vec<Unit> = Vec::new();
    let mut counts: Vec<usize> = Vec::new();
    let mut open: Option<String> = None;
    let mut moved = Vec::new();
    for unit in units {
        let name = key(&unit).filter(|_| unit.look != Look::Input);
        let mut inputs: Vec<usize> = unit.inputs.iter().map(|&i| moved[i]).collect();
        if name.is_some() && name == open {
            let at = found.len() - 1;
            inputs.retain(|&i| i != at);
            let whole = &mut found[at];
            counts[at] += unit.layers();
            whole.signature += &format!("{} {} {};", unit.label, unit.detail, unit.shape);
            whole.look = Look::Module;
            whole.module = name.clone().unwrap_or_default();
            whole.label = whole.module.clone();
            whole.shape = unit.shape;
            whole.jump = unit.jump;
            for input in inputs {
                if !whole.inputs.contains(&input) {
                    whole.inputs.push(input);
                }
            }
            moved.push(at);
        } else {
            inputs.dedup();
            moved.push(found.len());
            counts.push(unit.layers());
            found.push(Unit {
                inputs,
                block: None,
                signature: format!("{} {} {};", unit.label, unit.detail, unit.shape),
                ..unit
            });
        }
        open = name;
    }
    for (unit, count) in found.iter_mut().zip(counts) {
        if unit.look == Look::Module {
            unit.detail = format!("{count} layers");
        }
    }
    Drawing {
        units: found,
        blocks: Vec::new(),
    }
}

impl Unit {
    /// How many boxes a box was made of.
    fn layers(&self) -> usize {
        let count = self.detail.strip_suffix(" layers");
        let count = count.filter(|_| self.look == Look::Module);
        count.and_then(|n| n.parse().ok()).unwrap_or(1)
    }
}

/// Module boxes in a row that are made of the same become one.
pub(super) fn merged_runs(drawing: Drawing) -> Drawing {
    let Drawing { mut units, blocks } = drawing;
    let mut readers = vec![0; units.len()];
    for unit in &units {
        unit.inputs.iter().for_each(|&i| readers[i] += 1);
    }
    let mut gone = Vec::new();
    let mut instead: HashMap<usize, usize> = HashMap::new();
    let mut times: HashMap<usize, usize> = HashMap::new();
    for i in 1..units.len() {
        let before = match units[i].inputs[..] {
            [before] if before + 1 == i && readers[before] == 1 => before,
            _ => continue,
        };
        let same = units[i].look == Look::Module && units[i].signature == units[before].signature;
        if same {
            let first = instead.get(&before).copied().unwrap_or(before);
            instead.insert(i, first);
            *times.entry(first).or_insert(1) += 1;
            gone.push(i);
        }
    }
    for unit in &mut units {
        for input in &mut unit.inputs {
            *input = instead.get(input).copied().unwrap_or(*input);
        }
    }
    for (i, times) in times {
        units[i].detail = format!("{}, ×{times}", units[i].detail);
    }
    without(units, blocks, &gone)
}
