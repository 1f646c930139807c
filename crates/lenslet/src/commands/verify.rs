//! `lenslet verify`

use anyhow::Result;
use lenslet_train::{load_model, model_path, replay_golden};
use serde_json::json;

use super::device;
use crate::Ended;
use crate::cli::{Common, VerifyArgs};
use crate::report;

/// The largest difference of a logit, relative to the picture's largest logit, that rounding on
/// another machine or another order of summation explains with room to spare.
const TOLERANCE: f64 = 1e-3;

pub fn run(args: &VerifyArgs, common: &Common) -> Result<Ended> {
    let (model, info) = load_model(&args.model, &device())?;
    let errors = replay_golden(&model, &info, &device(), &model_path(&args.model))?;
    let largest = errors.iter().fold(0.0, |m: f64, (_, e)| m.max(*e));
    let holds = largest <= TOLERANCE;
    if common.json {
        let pictures: Vec<_> = errors
            .iter()
            .map(|(id, error)| json!({ "id": id, "relative_error": error }))
            .collect();
        report::print_json(&json!({
            "pictures": pictures, "largest_relative_error": largest, "tolerance": TOLERANCE, "holds": holds,
        }))?;
    } else {
        let mut table = report::table(&["golden picture", "largest relative error"]);
        for (id, error) in &errors {
            table.add_row([id.clone(), format!("{error:.1e}")]);
        }
        report::print(table)?;
        let verdict = if holds { "holds" } else { "does NOT hold" };
        report::print(format!(
            "largest error {largest:.1e}, allowed {TOLERANCE:.0e}: the model {verdict} on this machine"
        ))?;
    }
    Ok(if holds {
        Ended::Done
    } else {
        Ended::WithFailures
    })
}
