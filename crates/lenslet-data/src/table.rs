//! A CSV of image paths and labels.

use crate::files::natural_order;
use crate::folder::differing_by_case;
use crate::{DataError, FileDataset, FileEntry};
use std::path::{Path, PathBuf};

/// Opens the CSV `table`: one image a row, its path (relative to the CSV's folder) and its class.
///
/// A first row that names its columns (`path`, `file`, `filename` or `image`; `label`, `class` or `category`) is taken
/// for a header, and may have further columns; otherwise the first two columns count. The order of the classes is the
/// natural order of the labels.
///
/// # Errors
/// [`DataError::Io`]; [`DataError::CsvRow`] for a row without path or label; [`DataError::CsvMissing`] listing files that
/// do not exist; [`DataError::NoClasses`] for fewer than two labels; [`DataError::ClassesByCase`].
pub fn open(table: &Path) -> Result<FileDataset, DataError> {
    let file = std::fs::File::open(table).map_err(|e| DataError::io(table, e))?;
    let folder = table.parent().unwrap_or(Path::new(""));
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(file);
    let row_error = |line, reason: String| DataError::CsvRow {
        path: table.into(),
        line,
        reason,
    };
    let (mut columns, mut rows, mut missing) = ((0, 1), Vec::new(), Vec::new());
    for (number, record) in reader.records().enumerate() {
        let line = number as u64 + 1;
        let record = record.map_err(|e| {
            row_error(
                e.position().map_or(line, csv::Position::line),
                e.to_string(),
            )
        })?;
        let line = record.position().map_or(line, csv::Position::line);
        if number == 0
            && let Some(named) = header(&record)
        {
            columns = named;
            continue;
        }
        let field = |at: usize, what| {
            let value = record.get(at).filter(|v| !v.is_empty());
            value.ok_or_else(|| {
                row_error(
                    line,
                    format!("column {} ({what}) is empty or missing", at + 1),
                )
            })
        };
        let (name, label) = (field(columns.0, "path")?, field(columns.1, "label")?);
        let path: PathBuf = folder.join(name);
        if !path.exists() {
            missing.push(format!("line {line}: {}", path.display()));
        }
        rows.push((path, name.to_string(), label.to_string()));
    }
    if !missing.is_empty() {
        return Err(DataError::CsvMissing {
            path: table.into(),
            count: missing.len(),
            rows: rows.len(),
            examples: missing.into_iter().take(10).collect(),
        });
    }
    let mut names: Vec<String> = rows.iter().map(|(.., label)| label.clone()).collect();
    names.sort_by(|a, b| natural_order(a, b));
    names.dedup();
    if names.len() < 2 {
        return Err(DataError::NoClasses {
            dir: table.into(),
            found: format!("{} different labels in {} rows", names.len(), rows.len()),
        });
    }
    if let Some(problem) = differing_by_case(table, &names).into_iter().next() {
        return Err(problem);
    }
    let label_of = |label: &str| {
        names
            .iter()
            .position(|n| n == label)
            .map_or(0, |at| at as u32)
    };
    let files = rows
        .iter()
        .map(|(path, name, label)| FileEntry {
            path: path.clone(),
            name: name.clone(),
            label: label_of(label),
        })
        .collect();
    Ok(FileDataset::new(files, names))
}

/// The columns of path and label, when a row names them.
fn header(row: &csv::StringRecord) -> Option<(usize, usize)> {
    let find = |names: &[&str]| {
        // A byte order mark is not part of the name.
        row.iter()
            .position(|f| names.contains(&f.trim_start_matches('\u{feff}').to_lowercase().as_str()))
    };
    Some((
        find(&["path", "file", "filename", "image"])?,
        find(&["label", "class", "category"])?,
    ))
}
