//! The `lenslet` command.

mod cli;
mod commands;
mod report;

use std::process::ExitCode;

use clap::Parser;
use lenslet_data::DataError;
use lenslet_train::TrainError;

use crate::cli::{Cli, Command};

/// Keeps freed pages, where the system's allocator gives large buffers back after every step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a command that did not fail ended with.
enum Ended {
    Done,
    /// Something was reported that makes the exit code 1.
    WithFailures,
    Interrupted,
}

/// An error and its causes; many messages end with that of their cause already.
fn told_once(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = commands::set_threads(cli.common.threads).and_then(|threads| match cli.command {
        Command::Train(args) => commands::train::run(*args, &cli.common, threads),
        Command::Eval(args) => commands::eval::run(&args, &cli.common, threads),
        Command::Predict(args) => commands::predict::run(&args, &cli.common, threads),
        Command::Data(args) => commands::data::run(&args, &cli.common),
        Command::Verify(args) => commands::verify::run(&args, &cli.common),
        Command::Bench(args) => commands::bench::run(&args, &cli.common, threads),
        Command::Models(args) => commands::models::run(&args, &cli.common, threads),
        Command::Summary(args) => commands::summary::run(&args, &cli.common),
        Command::Draw(args) => commands::draw::run(&args, &cli.common),
        Command::Explain(args) => commands::explain::run(&args, &cli.common),
        Command::Run(args) => commands::run::run(&args, &cli.common),
        Command::Calc(args) => commands::calc::run(&args, &cli.common),
    });
    match result {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::WithFailures) => ExitCode::FAILURE,
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Err(error) if report::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told_once(&error));
            match error.downcast_ref() {
                Some(
                    TrainError::Setting { .. }
                    | TrainError::UnknownModel { .. }
                    | TrainError::Data(DataError::Setting { .. }),
                ) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
