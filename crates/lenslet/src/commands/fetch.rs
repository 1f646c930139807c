//! Published weights from the cache or from the network.

use std::path::PathBuf;

use anyhow::Result;
use lenslet_models::PublishedFile;

use crate::cli::Common;

/// The cached file of published weights, fetched if it is not there.
#[cfg(feature = "fetch")]
pub fn published(weights: &PublishedFile, common: &Common) -> Result<PathBuf> {
    use anyhow::Context;
    use lenslet_weights::fetch::{Patience, cache_dir, fetch};

    let cache =
        cache_dir().context("there is no folder for fetched weights; set XDG_CACHE_HOME")?;
    let path = cache.join(weights.file);
    if path.exists() {
        return Ok(path);
    }
    let url = base_url() + weights.file;
    if !common.quiet {
        eprintln!("fetching {url} into {}", cache.display());
    }
    let bar = bar(common);
    let result = fetch(
        &url,
        weights.sha256(),
        &path,
        Patience::default(),
        &mut |done, total| {
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(done);
        },
    );
    bar.finish_and_clear();
    result?;
    Ok(path)
}

#[cfg(not(feature = "fetch"))]
pub fn published(weights: &PublishedFile, _: &Common) -> Result<PathBuf> {
    anyhow::bail!(
        "this program was built without the feature that fetches weights; download {}{} and give its path with \
         --weights",
        lenslet_models::PUBLISHED_URL,
        weights.file
    )
}

/// Where published files are; `LENSLET_WEIGHTS_URL` names a mirror.
#[cfg(feature = "fetch")]
fn base_url() -> String {
    match std::env::var("LENSLET_WEIGHTS_URL") {
        Ok(mirror) => mirror.trim_end_matches('/').to_string() + "/",
        Err(_) => lenslet_models::PUBLISHED_URL.to_string(),
    }
}

/// A bar on a terminal, nothing elsewhere.
#[cfg(feature = "fetch")]
fn bar(common: &Common) -> indicatif::ProgressBar {
    use std::io::IsTerminal;

    use indicatif::{ProgressBar, ProgressStyle};

    if common.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let template = "{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
