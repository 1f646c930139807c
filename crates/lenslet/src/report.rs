//! Tables and numbers as people read them.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use lenslet_graph::Field;
use lenslet_train::Confusion;
use serde::Serialize;

/// One line under the header, nothing else.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table with a header; all columns but the first are numbers.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().map(|h| h.to_string()));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A line on standard output. A reader that has closed the pipe is no failure of ours: see
/// [`is_closed_pipe`].
pub fn print(text: impl std::fmt::Display) -> Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// One JSON object on a line of its own.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(serde_json::to_string(value)?)
}

/// Whether the reader of standard output has gone, as `head` does.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// `98.05 %`
pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// `1,234,567`
pub fn grouped(number: u64) -> String {
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

/// `1 min 23 s` or `4.5 s`
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A path as it can be typed into a shell.
pub fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The name by which this program was called, for commands that the user can type next.
pub fn program() -> String {
    let name = std::env::args_os()
        .next()
        .unwrap_or_else(|| "lenslet".into());
    shell(Path::new(&name))
}

/// The confusion matrix, true classes down, predicted classes across; for up to 20 classes.
pub fn confusion_table(confusion: &Confusion, classes: &[String]) -> Option<Table> {
    if classes.len() > 20 {
        return None;
    }
    let mut header = vec!["true \\ predicted"];
    header.extend(classes.iter().map(String::as_str));
    let mut table = table(&header);
    for (truth, class) in classes.iter().enumerate() {
        let counts = confusion.row(truth).iter().map(u64::to_string);
        table.add_row(std::iter::once(class.clone()).chain(counts));
    }
    Some(table)
}

/// The size of a receptive field.
pub fn field(field: &Field) -> String {
    match (field, field.size()) {
        (_, Some([h, w])) if h == w => h.to_string(),
        (_, Some([h, w])) => format!("{h}x{w}"),
        (Field::Whole, _) => "whole".into(),
        _ => "–".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(61_706), "61,706");
        assert_eq!(grouped(2_359_296), "2,359,296");
        assert_eq!(duration(4.46), "4.5 s");
        assert_eq!(duration(83.0), "1 min 23 s");
        assert_eq!(percent(0.9805), "98.05 %");
    }

    #[test]
    fn paths_can_be_typed() {
        assert_eq!(shell(Path::new("runs/lenet5-1")), "runs/lenet5-1");
        assert_eq!(shell(Path::new("my runs/it's")), r"'my runs/it'\''s'");
    }
}
