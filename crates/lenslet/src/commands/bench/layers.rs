//! Where the time goes: tables by layer.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use lenslet_engine::Session;
use lenslet_kernels::{peak_bandwidth, peak_operations};
use lenslet_nn::timing;

use super::{CALLS, WARM_UP};
use crate::cli::LayerOrder;
use crate::report::{self, grouped, percent};

/// A table of the session's steps: what each takes of the whole, and how near it comes to what the
/// machine can do, the larger of its operations and its bytes.
pub fn of_session(session: &Session, x: &[f32], seconds: f64, order: LayerOrder) -> Result<()> {
    let (operations, bandwidth) = (peak_operations(), peak_bandwidth());
    let steps = session.steps();
    let mut times = vec![Vec::new(); steps.len()];
    let mut output = Vec::new();
    let began = Instant::now();
    while times[0].len() < CALLS || began.elapsed().as_secs_f64() < seconds {
        session.run_timed(x, &mut output, &mut |i, time| {
            times[i].push(time.as_secs_f64());
        })?;
    }
    let times = times.into_iter().map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    let times: Vec<f64> = times.collect();
    let total: f64 = times.iter().sum();
    let header = [
        "layer",
        "kernel",
        "output",
        "parameters",
        "MMACs",
        "field",
        "ms",
        "share",
        "GF/s",
        "GB/s",
        "of limit",
    ];
    let mut table = report::table(&header);
    let mut rows: Vec<_> = steps.iter().zip(&times).collect();
    if order == LayerOrder::Share {
        rows.sort_by(|a, b| b.1.total_cmp(a.1));
    }
    for (step, &time) in rows {
        let (work, bytes) = (2.0 * step.macs as f64, step.bytes as f64);
        let limit = (work / operations).max(bytes / bandwidth);
        table.add_row([
            step.name.clone(),
            step.kernel.to_string(),
            format!("{} x {}", step.output[0], step.output[1]),
            grouped(step.params as u64),
            format!("{:.1}", step.macs as f64 / 1e6),
            report::field(&step.field),
            format!("{:.3}", time * 1e3),
            percent(time / total),
            format!("{:.0}", work / time / 1e9),
            format!("{:.1}", bytes / time / 1e9),
            format!("{:.0} %", 100.0 * limit / time),
        ]);
    }
    report::print(table)?;
    let mut rules = report::table(&["kernel", "taken for"]);
    let taken: BTreeMap<_, _> = steps.iter().map(|step| (step.kernel, step.rule)).collect();
    for (kernel, rule) in taken {
        rules.add_row([kernel, rule]);
    }
    report::print(rules)?;
    report::print(format!(
        "{:.3} ms in {} steps. This machine: {:.0} GFLOP/s, {:.1} GB/s. Winograd's steps do fewer \
         operations than are counted, and what lies in a cache is faster than memory.",
        total * 1e3,
        steps.len(),
        operations / 1e9,
        bandwidth / 1e9
    ))
}

/// Place of the column that says what an operation works on, in the table that has it.
const OF: usize = 2;

/// A table of a training step's operations, the longest first, and one of their kinds.
pub fn of_training(mut step: impl FnMut(), seconds: f64) -> Result<()> {
    for _ in 0..WARM_UP {
        step();
    }
    let operations = peak_operations();
    let mut steps = 0;
    let began = Instant::now();
    let ((), times) = timing::record(|| {
        while steps < CALLS || began.elapsed().as_secs_f64() < seconds {
            step();
            steps += 1;
        }
    });
    let whole = began.elapsed().as_secs_f64() / steps as f64;
    let mut rows: Vec<_> = times
        .into_iter()
        .map(|((label, way), spent)| {
            let calls = spent.calls as f64 / steps as f64;
            (label, way, calls, spent.time.as_secs_f64() / steps as f64)
        })
        .collect();
    rows.sort_by(|a, b| b.3.total_cmp(&a.3));
    // Both tables have these columns; the first says what an operation works on.
    let cells = |operation: &str, way: &str, [calls, time, work]: [f64; 3]| {
        let [rate, limit] = rates(work, time, operations);
        let calls = format!("{calls:.0}");
        let (ms, share) = (format!("{:.3}", time * 1e3), percent(time / whole));
        vec![
            operation.to_string(),
            way.to_string(),
            calls,
            ms,
            share,
            rate,
            limit,
        ]
    };
    let mut header = vec![
        "operation",
        "pass",
        "calls",
        "ms",
        "share",
        "GF/s",
        "of limit",
    ];
    header.insert(OF, "of");
    let mut table = report::table(&header);
    let mut kinds: BTreeMap<_, [f64; 3]> = BTreeMap::new();
    for (label, way, calls, time) in &rows {
        let numbers = [*calls, *time, 2.0 * label.macs as f64 * calls];
        let mut row = cells(label.operation, way.name(), numbers);
        row.insert(OF, label.detail.clone());
        table.add_row(row);
        let kind = kinds.entry((label.operation, *way)).or_default();
        for (sum, x) in kind.iter_mut().zip(numbers) {
            *sum += x;
        }
    }
    report::print(table)?;
    header.remove(OF);
    let mut table = report::table(&header);
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| b.1[1].total_cmp(&a.1[1]));
    let rest = whole - kinds.iter().map(|kind| kind.1[1]).sum::<f64>();
    for ((operation, way), numbers) in kinds {
        table.add_row(cells(operation, way.name(), numbers));
    }
    let mut row = cells(
        "the rest",
        "loss, autodiff, small operations",
        [0.0, rest, 0.0],
    );
    row[OF].clear();
    table.add_row(row);
    report::print(table)?;
    report::print(format!(
        "{:.3} ms a step, mean of {steps}. This machine: {:.0} GFLOP/s. Winograd's steps do fewer operations than are \
         counted.",
        whole * 1e3,
        operations / 1e9,
    ))
}

/// Billions of operations a second, and their share of the machine's.
fn rates(work: f64, time: f64, operations: f64) -> [String; 2] {
    if work == 0.0 {
        return Default::default();
    }
    [
        format!("{:.0}", work / time / 1e9),
        percent(work / time / operations),
    ]
}
