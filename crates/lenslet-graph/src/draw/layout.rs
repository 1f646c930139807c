//! Where boxes and lines go.
//!
//! Boxes stand in ranks, each below all that it reads (Sugiyama, Tagawa and Toda, *Methods for Visual
//! Understanding of Hierarchical System Structures*, 1981): ranks by the longest path, order within a
//! rank by barycentres, positions by least squares that keep boxes apart. Networks that go down to
//! small maps and up again are drawn as the letter that they are named after.

use super::{Drawing, Look, Unit};

/// Size of a box.
pub(super) const WIDTH: f64 = 178.0;
pub(super) const HEIGHT: f64 = 44.0;
/// Between boxes.
const GAP: [f64; 2] = [26.0, 32.0];
/// Around grounds, and around everything.
pub(super) const MARGIN: f64 = 14.0;
/// Room for a line beside boxes.
const LANE: f64 = 22.0;

#[derive(Debug, Clone, Copy)]
pub(super) struct Rect {
    /// The middle.
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Rect {
    fn left(&self) -> f64 {
        self.x - self.width / 2.0
    }
    fn right(&self) -> f64 {
        self.x + self.width / 2.0
    }
    fn top(&self) -> f64 {
        self.y - self.height / 2.0
    }
    fn bottom(&self) -> f64 {
        self.y + self.height / 2.0
    }
}

/// A line between two boxes.
#[derive(Debug, Clone)]
pub(super) enum Line {
    /// Through these points, leaving and arriving vertically.
    Down(Vec<[f64; 2]>),
    /// Straight.
    Straight([f64; 2], [f64; 2]),
}

#[derive(Debug)]
pub(super) struct Layout {
    pub boxes: Vec<Rect>,
    pub lines: Vec<Line>,
    /// A ground for every block, if it has boxes.
    pub grounds: Vec<Option<Rect>>,
    pub size: [f64; 2],
}

pub(super) fn arrange(drawing: &Drawing) -> Layout {
    let (mut boxes, mut lines, targets) = match u_shaped(&drawing.units) {
        Some(arranged) => arranged,
        None => ranked(&drawing.units),
    };
    let grounds = drawing.blocks.iter().enumerate().map(|(i, _)| {
        let members = drawing.units.iter().zip(&boxes);
        let members = members.filter(|(unit, _)| unit.block == Some(i));
        let members: Vec<&Rect> = members.map(|(_, rect)| rect).collect();
        let least = |of: fn(&Rect) -> f64| members.iter().map(|r| of(r)).fold(f64::MAX, f64::min);
        let most = |of: fn(&Rect) -> f64| members.iter().map(|r| of(r)).fold(f64::MIN, f64::max);
        // Lines that end in the block stay on its ground.
        let inner = lines
            .iter()
            .zip(&targets)
            .flat_map(|(line, &target)| match line {
                Line::Down(points) if drawing.units[target].block == Some(i) => {
                    &points[1..points.len() - 1]
                }
                _ => &[],
            });
        let xs: Vec<f64> = inner.map(|point| point[0]).collect();
        let left = xs.iter().copied().fold(least(Rect::left), f64::min) - 10.0;
        let right = xs.iter().copied().fold(most(Rect::right), f64::max) + 10.0;
        // The name stands at the top left.
        let [top, bottom] = [least(Rect::top) - 18.0, most(Rect::bottom) + 8.0];
        (!members.is_empty()).then_some(Rect {
            x: (left + right) / 2.0,
            y: (top + bottom) / 2.0,
            width: right - left,
            height: bottom - top,
        })
    });
    let mut grounds: Vec<Option<Rect>> = grounds.collect();
    // Everything moves so that the picture begins at the margin.
    let all = boxes.iter().chain(grounds.iter().flatten());
    let points = lines.iter().flat_map(|line| match line {
        Line::Down(points) => points.clone(),
        Line::Straight(from, to) => vec![*from, *to],
    });
    let points: Vec<[f64; 2]> = points.collect();
    let xs = || {
        all.clone()
            .flat_map(|r| [r.left(), r.right()])
            .chain(points.iter().map(|p| p[0]))
    };
    let ys = || all.clone().flat_map(|r| [r.top(), r.bottom()]);
    let [left, right] = [xs().fold(f64::MAX, f64::min), xs().fold(f64::MIN, f64::max)];
    let [top, bottom] = [ys().fold(f64::MAX, f64::min), ys().fold(f64::MIN, f64::max)];
    let [dx, dy] = [MARGIN - left, MARGIN - top];
    for rect in boxes.iter_mut().chain(grounds.iter_mut().flatten()) {
        rect.x += dx;
        rect.y += dy;
    }
    let shift = |point: &mut [f64; 2]| *point = [point[0] + dx, point[1] + dy];
    for line in &mut lines {
        match line {
            Line::Down(points) => points.iter_mut().for_each(shift),
            Line::Straight(from, to) => [from, to].into_iter().for_each(shift),
        }
    }
    Layout {
        boxes,
        lines,
        grounds,
        size: [right - left + 2.0 * MARGIN, bottom - top + 2.0 * MARGIN],
    }
}

fn extent(unit: &Unit) -> [f64; 2] {
    match unit.look {
        Look::Join if unit.is_sign() => [24.0, 24.0],
        Look::Join => [WIDTH - 30.0, 26.0],
        _ => [WIDTH, HEIGHT],
    }
}

fn rect(unit: &Unit, x: f64, y: f64) -> Rect {
    let [width, height] = extent(unit);
    Rect {
        x,
        y,
        width,
        height,
    }
}

/// A place in a rank: a box, or a line that passes by.
struct Place {
    unit: Option<usize>,
    /// How far the way goes on below.
    height: usize,
    width: f64,
    /// The neighbours above and below, by their numbers.
    above: Vec<usize>,
    below: Vec<usize>,
    rank: usize,
}

fn ranked(units: &[Unit]) -> (Vec<Rect>, Vec<Line>, Vec<usize>) {
    let mut ranks = vec![0; units.len()];
    for (i, unit) in units.iter().enumerate() {
        let above = unit.inputs.iter().map(|&input| ranks[input] + 1);
        ranks[i] = above.max().unwrap_or(0);
    }
    let mut heights = vec![0; units.len()];
    let mut readers = vec![0; units.len()];
    for (i, unit) in units.iter().enumerate().rev() {
        for &input in &unit.inputs {
            heights[input] = heights[input].max(heights[i] + 1);
            readers[input] += 1;
        }
    }
    let place = |unit, rank, height, width| Place {
        unit,
        height,
        width,
        above: Vec::new(),
        below: Vec::new(),
        rank,
    };
    let mut places: Vec<Place> = (ranks.iter().enumerate())
        .map(|(i, &rank)| {
            let width = extent(&units[i])[0].max(WIDTH * 0.6);
            place(Some(i), rank, heights[i], width)
        })
        .collect();
    let mut chains = Vec::new();
    for (i, unit) in units.iter().enumerate() {
        for &input in &unit.inputs {
            let mut chain = vec![input];
            for rank in ranks[input] + 1..ranks[i] {
                chain.push(places.len());
                // A branch keeps its width to its end; what only passes by takes a lane.
                let width = if readers[input] == 1 { WIDTH } else { LANE };
                places.push(place(None, rank, heights[i], width));
            }
            chain.push(i);
            for pair in chain.windows(2) {
                places[pair[0]].below.push(pair[1]);
                places[pair[1]].above.push(pair[0]);
            }
            chains.push(chain);
        }
    }
    let rows = ordered(&places);
    let xs = positions(&places, &rows);
    let y = |rank: usize| rank as f64 * (HEIGHT + GAP[1]);
    let boxes: Vec<Rect> = (units.iter().enumerate())
        .map(|(i, unit)| rect(unit, xs[i], y(ranks[i])))
        .collect();
    let targets = chains.iter().map(|chain| chain[chain.len() - 1]).collect();
    let lines = chains.iter().map(|chain| {
        let (first, last) = (boxes[chain[0]], boxes[chain[chain.len() - 1]]);
        let mut points = vec![[first.x, first.bottom()]];
        for &passing in &chain[1..chain.len() - 1] {
            let middle = y(places[passing].rank);
            points.push([xs[passing], middle - HEIGHT / 2.0]);
            points.push([xs[passing], middle + HEIGHT / 2.0]);
        }
        points.push([last.x, last.top()]);
        Line::Down(points)
    });
    let lines = lines.collect();
    (boxes, lines, targets)
}

/// The places of every rank, so ordered that few lines cross.
fn ordered(places: &[Place]) -> Vec<Vec<usize>> {
    let count = places.iter().map(|place| place.rank + 1).max().unwrap_or(0);
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (i, place) in places.iter().enumerate() {
        rows[place.rank].push(i);
    }
    let mut at = vec![0.0; places.len()];
    let number = |row: &[usize], at: &mut Vec<f64>| {
        for (position, &i) in row.iter().enumerate() {
            // Counted from the middle, so that single boxes are above each other.
            at[i] = position as f64 - (row.len() - 1) as f64 / 2.0;
        }
    };
    rows.iter().for_each(|row| number(row, &mut at));
    for sweep in 0..12 {
        let down = sweep % 2 == 0;
        let order: Vec<usize> = match down {
            true => (0..count).collect(),
            false => (0..count).rev().collect(),
        };
        for rank in order {
            let mean = |i: usize| {
                let near = if down {
                    &places[i].above
                } else {
                    &places[i].below
                };
                match near.len() {
                    0 => at[i],
                    n => near.iter().map(|&j| at[j]).sum::<f64>() / n as f64,
                }
            };
            let mut keyed: Vec<(f64, usize)> = rows[rank].iter().map(|&i| (mean(i), i)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            rows[rank] = keyed.into_iter().map(|(_, i)| i).collect();
            number(&rows[rank], &mut at);
        }
    }
    rows
}

/// The middle of every place.
fn positions(places: &[Place], rows: &[Vec<usize>]) -> Vec<f64> {
    let width = |i: usize| places[i].width;
    // Where two ways meet or part, the longer one is straight.
    let above = |i: usize| places[i].unit.map_or(0, |_| 1);
    let below = |i: usize| places[i].height;
    let mut xs = vec![0.0; places.len()];
    for row in rows {
        let mut x = 0.0;
        for &i in row {
            xs[i] = x + width(i) / 2.0;
            x += width(i) + GAP[0];
        }
        let middle = x / 2.0;
        row.iter().for_each(|&i| xs[i] -= middle);
    }
    for sweep in 0..61 {
        let down = sweep % 2 == 0;
        let order: Vec<usize> = match down {
            true => (0..rows.len()).collect(),
            false => (0..rows.len()).rev().collect(),
        };
        for rank in order {
            let row = &rows[rank];
            let wish = |i: usize| match (down, places[i].unit) {
                (_, None) => mean(&[&places[i].above[..], &places[i].below].concat(), &xs),
                (true, _) => mean(&main(&places[i].above, &above), &xs),
                (false, _) => mean(&main(&places[i].below, &below), &xs),
            };
            let wish = |i: usize| wish(i).unwrap_or(xs[i]);
            let wishes: Vec<f64> = row.iter().map(|&i| wish(i)).collect();
            let weight = |i: usize| if places[i].unit.is_some() { 8.0 } else { 1.0 };
            let weights: Vec<f64> = row.iter().map(|&i| weight(i)).collect();
            let mut offsets = vec![0.0; row.len()];
            for k in 1..row.len() {
                let half = (width(row[k - 1]) + width(row[k])) / 2.0;
                offsets[k] = offsets[k - 1] + half + GAP[0];
            }
            let found = apart(&wishes, &weights, &offsets);
            for (&i, x) in row.iter().zip(found) {
                xs[i] = x;
            }
        }
    }
    xs
}

/// Of two neighbours the one that counts more, of others all.
fn main(near: &[usize], count: &dyn Fn(usize) -> usize) -> Vec<usize> {
    match *near {
        [a, b] if count(a) > count(b) => vec![a],
        [a, b] if count(a) < count(b) => vec![b],
        _ => near.to_vec(),
    }
}

fn mean(near: &[usize], xs: &[f64]) -> Option<f64> {
    let sum: f64 = near.iter().map(|&j| xs[j]).sum();
    (!near.is_empty()).then(|| sum / near.len() as f64)
}

/// The positions nearest to the wished ones, by weighted squares, that are as far apart as the
/// offsets: isotonic regression by pooling neighbours that violate the order.
fn apart(wishes: &[f64], weights: &[f64], offsets: &[f64]) -> Vec<f64> {
    // Sum of weights, mean, number of members.
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for ((wish, weight), offset) in wishes.iter().zip(weights).zip(offsets) {
        let mut pool = (*weight, wish - offset, 1);
        while let Some(&(w, mean, n)) = pools.last()
            && mean > pool.1
        {
            let sum = w + pool.0;
            pool = (sum, (w * mean + pool.0 * pool.1) / sum, n + pool.2);
            pools.pop();
        }
        pools.push(pool);
    }
    let pooled = pools
        .iter()
        .flat_map(|&(_, mean, n)| std::iter::repeat_n(mean, n));
    pooled
        .zip(offsets)
        .map(|(mean, offset)| mean + offset)
        .collect()
}

/// Down on the left, the smallest maps below, up on the right; `None` for a network that does not
/// come up again.
fn u_shaped(units: &[Unit]) -> Option<(Vec<Rect>, Vec<Line>, Vec<usize>)> {
    let mut levels: Vec<usize> = Vec::new();
    for unit in units {
        let level = match (unit.jump, unit.inputs.first()) {
            (Some(jump), _) => jump.log2().round().max(0.0) as usize,
            (None, Some(&input)) => levels[input],
            (None, None) => 0,
        };
        levels.push(level);
    }
    let deepest = *levels.iter().max()?;
    let first = levels.iter().position(|&level| level == deepest)?;
    let last = levels.iter().rposition(|&level| level == deepest)?;
    let falls = levels[..=first].is_sorted();
    let rises = levels[last..].iter().rev().is_sorted();
    if !falls || !rises || deepest < 2 || levels.last() == Some(&deepest) {
        return None;
    }
    let column = WIDTH + 2.0 * GAP[0];
    let step = HEIGHT + GAP[1];
    let below = last - first + 1;
    let across = column * (below as f64 - 1.0).max(2.0);
    let mut boxes: Vec<Option<Rect>> = vec![None; units.len()];
    let mut y = 0.0;
    for level in 0..deepest {
        let on = |range: std::ops::Range<usize>| -> Vec<usize> {
            range.filter(|&i| levels[i] == level).collect()
        };
        let (left, right) = (on(0..first), on(last + 1..units.len()));
        // The right side goes up; where it joins the left side's last box, both are at one height.
        let join = right.iter().position(|&i| units[i].look == Look::Join);
        let join = join.unwrap_or(0);
        let rows = (left.len() + join).max(right.len());
        let row = |from_below: usize| y + (rows - 1 - from_below) as f64 * step;
        for (k, &i) in right.iter().enumerate() {
            boxes[i] = Some(rect(&units[i], across, row(k)));
        }
        for (k, &i) in left.iter().rev().enumerate() {
            boxes[i] = Some(rect(&units[i], 0.0, row(join + k)));
        }
        y += rows as f64 * step + 0.35 * step;
    }
    let between = across / (below as f64 - 1.0).max(1.0);
    for (k, i) in (first..=last).enumerate() {
        boxes[i] = Some(rect(&units[i], k as f64 * between, y));
    }
    let boxes: Option<Vec<Rect>> = boxes.into_iter().collect();
    let boxes = boxes?;
    let (mut lines, mut targets) = (Vec::new(), Vec::new());
    for (i, unit) in units.iter().enumerate() {
        for &input in &unit.inputs {
            let (from, to) = (boxes[input], boxes[i]);
            targets.push(i);
            lines.push(if (from.x - to.x).abs() < 1.0 {
                match from.y < to.y {
                    true => Line::Straight([from.x, from.bottom()], [to.x, to.top()]),
                    false => Line::Straight([from.x, from.top()], [to.x, to.bottom()]),
                }
            } else if from.x < to.x {
                Line::Straight([from.right(), from.y], [to.left(), to.y])
            } else {
                Line::Straight([from.left(), from.y], [to.right(), to.y])
            });
        }
    }
    Some((boxes, lines, targets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_apart_and_near_their_wishes() {
        let offsets = [0.0, 10.0, 20.0];
        assert_eq!(
            apart(&[0.0, 50.0, 90.0], &[1.0; 3], &offsets),
            [0.0, 50.0, 90.0]
        );
        assert_eq!(
            apart(&[5.0, 5.0, 5.0], &[1.0; 3], &offsets),
            [-5.0, 5.0, 15.0]
        );
        assert_eq!(apart(&[0.0, 0.0], &[3.0, 1.0], &offsets[..2]), [-2.5, 7.5]);
    }
}
