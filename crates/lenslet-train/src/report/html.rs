//! The report's text.

use serde_json::Value;

use super::ReportSource;
use super::style::STYLE;
use crate::{Confusion, Evaluation, Judged};

/// A picture and what the model made of it.
pub(super) struct Shown<'a> {
    pub judged: &'a Judged,
    pub name: String,
    /// A data URL.
    pub source: String,
}

/// Classes up to which the confusion matrix is drawn whole.
const MATRIX: usize = 40;

pub(super) fn page(source: &ReportSource<'_>, title: &str, curves: &str, findings: &str) -> String {
    let title = escape(title);
    let body = [
        tiles(source),
        section("Course", "", &format!("<div class=scroll>{curves}</div>")),
        findings.to_string(),
        skipped(source),
        stages(source),
        configuration(source),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         <p class=sub>{} pictures trained on, {} held out, {} classes. Lenslet {}.</p>\n{body}</main>\n</body>\n</html>\n",
        source.trained_on,
        source.held_out,
        source.classes.len(),
        escape(&source.config.version),
    )
}

/// What was found of pictures of a class each.
pub(super) fn classified(
    source: &ReportSource<'_>,
    found: &Evaluation,
    wrong: &[Shown<'_>],
    uncertain: &[Shown<'_>],
) -> String {
    [
        confusion(source, &found.confusion, "pictures"),
        classes(source, &found.confusion),
        pictures(
            source,
            "Most wrong",
            "Held-out pictures that the model is surest to be something else.",
            wrong,
        ),
        pictures(
            source,
            "Most uncertain",
            "Held-out pictures between two classes.",
            uncertain,
        ),
    ]
    .concat()
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// `1,234,567`
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

pub(super) fn section(title: &str, about: &str, content: &str) -> String {
    let about = match about {
        "" => String::new(),
        about => format!("<p>{about}</p>\n"),
    };
    format!("<section>\n<h2>{title}</h2>\n{about}{content}\n</section>\n")
}

fn tiles(source: &ReportSource<'_>) -> String {
    let (summary, evaluation) = (source.summary, &source.summary.evaluation);
    let last = summary.history.last().map_or(0.0, |record| record.val_acc);
    let chief = summary.best.chief();
    let mut tiles = vec![
        (
            percent(evaluation.chief()),
            format!("held-out {chief}, best epoch"),
        ),
        (percent(last), format!("held-out {chief}, last epoch")),
        (
            format!("{:.3}", evaluation.loss()),
            "held-out loss, best epoch".into(),
        ),
        (
            format!("{} of {}", summary.best.epoch, summary.history.len()),
            "best epoch".into(),
        ),
        (
            format!("{:.1} s", summary.seconds),
            "time of the epochs".into(),
        ),
    ];
    if !summary.skipped.is_empty() {
        let count = summary.skipped.len().to_string();
        tiles.push((count, "pictures skipped".into()));
    }
    let tile = |(value, what): &(String, String)| {
        format!("<div class=tile><b>{value}</b><span>{what}</span></div>")
    };
    let tiles: String = tiles.iter().map(tile).collect();
    format!("<div class=tiles>{tiles}</div>\n")
}

/// Which classes are taken for which; `of` says what is counted.
pub(super) fn confusion(source: &ReportSource<'_>, confusion: &Confusion, of: &str) -> String {
    let classes = source.classes;
    let title = "Confusion";
    if classes.len() > MATRIX {
        let about = "The pairs of classes that are taken for each other most often.";
        return section(title, about, &pairs(confusion, classes));
    }
    let head: String = classes
        .iter()
        .map(|class| format!("<th class=top>{}</th>", escape(class)))
        .collect();
    let mut rows = String::new();
    for (truth, class) in classes.iter().enumerate() {
        let row = confusion.row(truth);
        let sum: u64 = row.iter().sum();
        rows += &format!("<tr><th>{}</th>", escape(class));
        for (predicted, &count) in row.iter().enumerate() {
            let share = count as f64 / sum.max(1) as f64;
            let colour = if predicted == truth {
                "0,114,178"
            } else {
                "213,94,0"
            };
            let ink = if share > 0.6 { "#fff" } else { "inherit" };
            let text = if count == 0 {
                String::new()
            } else {
                count.to_string()
            };
            let name = escape(&classes[predicted]);
            rows += &format!(
                "<td style=\"background:rgba({colour},{:.2});color:{ink}\" title=\"{}: {count} of {sum} taken for {name}\">{text}</td>",
                if count == 0 {
                    0.03
                } else {
                    0.12 + 0.88 * share
                },
                escape(class),
            );
        }
        rows += "</tr>\n";
    }
    let table = format!(
        "<div class=scroll><table class=matrix>\n<tr><th></th>{head}</tr>\n{rows}</table></div>"
    );
    let about = format!("True classes down, predicted classes across; held-out {of}, best epoch.");
    section(title, &about, &table)
}

/// The most frequent mistakes.
fn pairs(confusion: &Confusion, classes: &[String]) -> String {
    let mut pairs = Vec::new();
    for truth in 0..classes.len() {
        for (predicted, &count) in confusion.row(truth).iter().enumerate() {
            if truth != predicted && count > 0 {
                pairs.push((count, truth, predicted));
            }
        }
    }
    pairs.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let row = |&(count, truth, predicted): &(u64, usize, usize)| {
        let [truth, predicted] = [truth, predicted].map(|class| escape(&classes[class]));
        format!("<tr><td>{truth}</td><td>{predicted}</td><td class=n>{count}</td></tr>\n")
    };
    let rows: String = pairs.iter().take(30).map(row).collect();
    format!(
        "<table><tr><th>is</th><th>taken for</th><th class=n>pictures</th></tr>\n{rows}</table>"
    )
}

fn classes(source: &ReportSource<'_>, confusion: &Confusion) -> String {
    let scores = confusion.scores();
    let mut rows = String::new();
    for (class, score) in source.classes.iter().zip(&scores) {
        rows += &format!(
            "<tr><td>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td>\
             <td class=bar><i style=\"width:{:.1}%\"></i></td><td class=n>{}</td></tr>\n",
            escape(class),
            percent(score.precision),
            percent(score.recall),
            percent(score.f1),
            score.f1 * 100.0,
            score.support,
        );
    }
    let head = "<tr><th>class</th><th class=n>precision</th><th class=n>recall</th><th class=n>F1</th><th></th>\
                <th class=n>pictures</th></tr>";
    let table = format!("<div class=scroll><table>{head}\n{rows}</table></div>");
    section("Classes", "", &table)
}

fn pictures(source: &ReportSource<'_>, title: &str, about: &str, shown: &[Shown<'_>]) -> String {
    if shown.is_empty() {
        return section(title, "", "<p>None.</p>");
    }
    let small = source.preprocess.crop[0] < 100;
    let figure = |picture: &Shown<'_>| {
        let judged = picture.judged;
        let right = judged.predicted == judged.truth;
        let [truth, predicted] =
            [judged.truth, judged.predicted].map(|class| escape(&source.classes[class]));
        let file = escape(&picture.name);
        let name = picture
            .name
            .rsplit(['/', '\\'])
            .next()
            .unwrap_or(&picture.name);
        let is = if right {
            String::new()
        } else {
            format!("<br>is {truth}, {}", percent(judged.truth_probability))
        };
        format!(
            "<figure><img{} src=\"{}\" alt=\"{truth}\" title=\"{file}\"><figcaption>\
             <span class={}>{predicted}, {}</span>{is}<span class=file>{}</span></figcaption></figure>\n",
            if small { " class=small" } else { "" },
            picture.source,
            if right { "good" } else { "bad" },
            percent(judged.confidence),
            escape(name),
        )
    };
    let figures: String = shown.iter().map(figure).collect();
    section(
        title,
        about,
        &format!("<div class=pictures>\n{figures}</div>"),
    )
}

fn skipped(source: &ReportSource<'_>) -> String {
    if source.summary.skipped.is_empty() {
        return String::new();
    }
    let line = |file: &crate::SkippedFile| format!("<li>{}</li>\n", escape(&file.reason));
    let list: String = source.summary.skipped.iter().map(line).collect();
    let about = "Pictures that could not be read. Nothing was learnt from them.";
    section("Skipped", about, &format!("<ul>\n{list}</ul>"))
}

fn stages(source: &ReportSource<'_>) -> String {
    let row = |name: &str, params: usize, trainable: usize| {
        let [params, trainable] = [params, trainable].map(grouped);
        format!("<tr><td>{name}</td><td class=n>{params}</td><td class=n>{trainable}</td></tr>\n")
    };
    let parts = source.parts;
    let mut rows: String = parts
        .iter()
        .map(|part| row(&escape(&part.name), part.params, part.trainable))
        .collect();
    let sum = |size: fn(&crate::PartSize) -> usize| parts.iter().map(size).sum();
    rows += &row("all", sum(|p| p.params), sum(|p| p.trainable));
    let head = "<tr><th>stage</th><th class=n>parameters</th><th class=n>trained</th></tr>";
    section(
        "What trained",
        "",
        &format!("<table>{head}\n{rows}</table>"),
    )
}

fn configuration(source: &ReportSource<'_>) -> String {
    let config = serde_json::to_value(&source.config.train).unwrap_or_default();
    let preprocess = serde_json::to_value(source.preprocess).unwrap_or_default();
    let mut rows = String::new();
    let mut add = |name: &str, value: &Value| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Null => "none".into(),
            other => other.to_string(),
        };
        let name = escape(name);
        rows += &format!(
            "<tr><td>{name}</td><td><code>{}</code></td></tr>\n",
            escape(&value)
        );
    };
    for (name, value) in config.as_object().into_iter().flatten() {
        add(name, value);
    }
    for (name, value) in preprocess.as_object().into_iter().flatten() {
        add(&format!("preprocess.{name}"), value);
    }
    add("threads", &source.config.threads.into());
    let command = escape(&source.config.command);
    let content =
        format!("<p><code>{command}</code></p>\n<div class=scroll><table>{rows}</table></div>");
    section("Configuration", "", &content)
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
