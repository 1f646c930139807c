//! Text for Graphviz.

use std::fmt::Write;

use super::{Drawing, Look};

pub(super) fn write(drawing: &Drawing, title: &str) -> String {
    // Writing to a string does not fail.
    let mut dot = String::from("digraph model {\n");
    let _ = writeln!(
        dot,
        "  graph [label={}, labelloc=t, fontname=\"sans-serif\"];\n  node [shape=box, fontname=\"sans-serif\"];",
        quoted(title)
    );
    let node = |dot: &mut String, indent: &str, i: usize| {
        let unit = &drawing.units[i];
        let lines = [&unit.label, &unit.detail, &unit.shape];
        let lines: Vec<&str> = (lines.iter())
            .map(|line| line.as_str())
            .filter(|line| !line.is_empty())
            .collect();
        let shape = match unit.look {
            Look::Join => ", shape=ellipse",
            _ => "",
        };
        let label = quoted(&lines.join("\n"));
        let _ = writeln!(dot, "{indent}n{i} [label={label}{shape}];");
    };
    for (i, block) in drawing.blocks.iter().enumerate() {
        let name = match block.times {
            1 => block.name.clone(),
            n => format!("{} ×{n}", block.name),
        };
        let members = (0..drawing.units.len()).filter(|&u| drawing.units[u].block == Some(i));
        let members: Vec<usize> = members.collect();
        if members.is_empty() {
            continue;
        }
        let _ = writeln!(
            dot,
            "  subgraph cluster_{i} {{\n    label={};",
            quoted(&name)
        );
        members
            .into_iter()
            .for_each(|unit| node(&mut dot, "    ", unit));
        dot += "  }\n";
    }
    for (i, unit) in drawing.units.iter().enumerate() {
        if unit.block.is_none() {
            node(&mut dot, "  ", i);
        }
    }
    for (i, unit) in drawing.units.iter().enumerate() {
        for input in &unit.inputs {
            let _ = writeln!(dot, "  n{input} -> n{i};");
        }
    }
    dot += "}\n";
    dot
}

fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('\n', "\\n"))
}
