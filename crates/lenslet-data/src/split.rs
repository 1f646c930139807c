//! Division of a dataset of files into training and validation parts.

use crate::{DataError, Dataset, FileDataset};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Identifies a file's content: its length, and 128 bits that differ for different contents (not against an adversary).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Content {
    hash: [u64; 2],
    length: u64,
}

/// Odd constants, from the golden ratio and from SplitMix64.
const MULTIPLIERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9];

impl Content {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut hash = MULTIPLIERS;
        let mut take = |word: u64| {
            for (h, m) in hash.iter_mut().zip(MULTIPLIERS) {
                *h = (h.rotate_left(23) ^ word).wrapping_mul(m);
            }
        };
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|w| take(u64::from_le_bytes(*w)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        take(u64::from_le_bytes(last));
        Self {
            hash: hash.map(finish),
            length: bytes.len() as u64,
        }
    }

    /// All that tells it from others.
    pub(crate) fn words(&self) -> [u64; 3] {
        [self.hash[0], self.hash[1], self.length]
    }

    /// The content's place in the order that `seed` gives.
    fn place(&self, seed: u64) -> (u64, Self) {
        (
            finish(finish(self.hash[0] ^ self.length) ^ finish(seed ^ MULTIPLIERS[0])),
            *self,
        )
    }
}

/// Spreads every bit over the word.
fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(MULTIPLIERS[1]);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Runs `task` for `0..count` on all cores and returns the results in order.
pub(crate) fn in_parallel<T: Send>(count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism()
        .map_or(1, |n| n.get())
        .min(count.max(1));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return done;
            }
            done.push((i, task(i)));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for other in others {
            match other.join() {
                Ok(part) => all.extend(part),
                // A task's panic is the caller's.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, result)| result).collect()
}

impl FileDataset {
    /// Divides the files into a training and a validation part, which gets the fraction `val_split` of every class (at
    /// least one file). Files are drawn by their content and `seed`: renaming and moving them changes nothing, and exact
    /// copies stay together. A content that occurs in several classes stays in training.
    ///
    /// # Errors
    /// [`DataError::Setting`] when `val_split` is not between 0 and 1; [`DataError::CannotSplit`] naming the classes with
    /// fewer than two different pictures.
    pub fn split(&self, val_split: f64, seed: u64) -> Result<(Self, Self), DataError> {
        check_share(val_split)?;
        let contents = in_parallel(self.len(), |i| content_of(&self.files()[i].path));
        let mut classes_of: HashMap<Content, HashSet<u32>> = HashMap::new();
        let mut groups: Vec<HashMap<Content, Vec<usize>>> =
            vec![HashMap::new(); self.class_names().len()];
        for (i, (file, content)) in self.files().iter().zip(&contents).enumerate() {
            classes_of.entry(*content).or_default().insert(file.label);
            if let Some(class) = groups.get_mut(file.label as usize) {
                class.entry(*content).or_default().push(i);
            }
        }
        let (mut val, mut single) = (Vec::new(), Vec::new());
        for (class, groups) in groups.into_iter().enumerate() {
            let files: usize = groups.values().map(Vec::len).sum();
            if files == 0 {
                continue;
            }
            let mut own: Vec<(Content, Vec<usize>)> = groups
                .into_iter()
                .filter(|(c, _)| classes_of[c].len() == 1)
                .collect();
            own.sort_by_key(|(content, _)| content.place(seed));
            let chosen = choose(own, files, val_split);
            if chosen.is_empty() {
                single.push(self.class_names()[class].clone());
            }
            val.extend(chosen);
        }
        if !single.is_empty() {
            return Err(DataError::CannotSplit {
                classes: single.join(", "),
            });
        }
        let chosen: HashSet<usize> = val.into_iter().collect();
        let (val, train): (Vec<usize>, Vec<usize>) =
            (0..self.len()).partition(|i| chosen.contains(i));
        Ok((self.part(&train), self.part(&val)))
    }
}

/// Which of `paths` are validated on: the fraction `val_split` of them, at least one and never all, drawn by content and
/// `seed`. Exact copies stay together.
///
/// # Errors
/// [`DataError::Setting`] when `val_split` is not between 0 and 1; [`DataError::Empty`] with fewer than two different files.
pub(crate) fn held_out(paths: &[&Path], val_split: f64, seed: u64) -> Result<Vec<bool>, DataError> {
    check_share(val_split)?;
    let contents = in_parallel(paths.len(), |i| content_of(paths[i]));
    let mut groups: HashMap<Content, Vec<usize>> = HashMap::new();
    for (i, content) in contents.into_iter().enumerate() {
        groups.entry(content).or_default().push(i);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(content, _)| content.place(seed));
    let chosen = choose(groups, paths.len(), val_split);
    if chosen.is_empty() {
        return Err(DataError::Empty {
            what: "the part to validate on, since there are fewer than two different pictures"
                .into(),
        });
    }
    let mut held = vec![false; paths.len()];
    chosen.into_iter().for_each(|i| held[i] = true);
    Ok(held)
}

fn check_share(val_split: f64) -> Result<(), DataError> {
    if val_split > 0.0 && val_split < 1.0 {
        return Ok(());
    }
    Err(DataError::Setting {
        setting: "val_split",
        found: val_split.to_string(),
        expected: "it must be a fraction between 0 and 1, such as 0.2",
    })
}

/// The files of one class that are validated on: whole groups of copies, in their order, as many as the fraction allows;
/// at least one group, and never all files.
fn choose(groups: Vec<(Content, Vec<usize>)>, files: usize, val_split: f64) -> Vec<usize> {
    let wanted =
        ((files as f64 * val_split).round() as usize).clamp(1, files.saturating_sub(1).max(1));
    let mut chosen = Vec::new();
    for (_, group) in &groups {
        if chosen.len() + group.len() <= wanted && group.len() < files {
            chosen.extend(group);
        }
    }
    if chosen.is_empty() {
        let smallest = groups
            .into_iter()
            .map(|(_, group)| group)
            .filter(|g| g.len() < files)
            .min_by_key(Vec::len);
        chosen = smallest.unwrap_or_default();
    }
    chosen
}

/// The content of the file `path`; of its path, when it cannot be read.
fn content_of(path: &Path) -> Content {
    match std::fs::read(path) {
        Ok(bytes) => Content::of(&bytes),
        Err(_) => Content::of(path.as_os_str().as_encoded_bytes()),
    }
}
