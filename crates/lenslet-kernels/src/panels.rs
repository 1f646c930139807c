//! Packing of the right-hand operand into panels: `[panel][k][columns of the panel]`, the last panel's columns padded with
//! zeros to whole vectors.

use crate::buffer::AlignedBuf;
use crate::pool::{SharedMut, parallel_for};
use crate::simd::{Isa, isa};
use crate::tile::{geometry, max_rows, max_vectors};

/// How `n` columns are cut into panels. Widths differ by one vector at most, since a narrow last panel would waste registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panels {
    pub isa: Isa,
    pub n: usize,
    pub count: usize,
    vectors: usize,
    lanes: usize,
}

/// One panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    /// First column.
    pub col: usize,
    /// Columns that count.
    pub cols: usize,
    /// Vectors per row.
    pub vectors: usize,
    /// Floats per row.
    pub width: usize,
}

impl Panels {
    pub fn new(isa: Isa, n: usize) -> Self {
        let (lanes, registers) = geometry(isa);
        let vectors = n.div_ceil(lanes);
        Panels {
            isa,
            n,
            count: vectors.div_ceil(max_vectors(registers)),
            vectors,
            lanes,
        }
    }

    pub fn get(&self, index: usize) -> Panel {
        let first = index * self.vectors / self.count;
        let end = (index + 1) * self.vectors / self.count;
        let col = first * self.lanes;
        Panel {
            col,
            cols: (end * self.lanes).min(self.n) - col,
            vectors: end - first,
            width: (end - first) * self.lanes,
        }
    }

    /// Columns with the padding.
    pub fn padded(&self) -> usize {
        self.vectors * self.lanes
    }

    /// Rows of a tile that suits every panel.
    pub fn tile_rows(&self) -> usize {
        let (_, registers) = geometry(self.isa);
        max_rows(registers, self.vectors.div_ceil(self.count.max(1)).max(1))
    }
}

/// Where element (tap, channel, column) of the right-hand operand lies in its source: at
/// `tap * tap_stride + channel * channel_stride + column * col_stride`, the tap numbers taken from a list.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub data: &'a [f32],
    pub taps: &'a [usize],
    pub tap_stride: usize,
    pub channels: usize,
    pub channel_stride: usize,
    pub col_stride: usize,
}

/// A packed right-hand operand, for one or more groups.
#[derive(Debug)]
pub(crate) struct Packed {
    pub panels: Panels,
    /// Taps times channels of a group.
    pub k: usize,
    pub groups: usize,
    pub data: AlignedBuf,
}

impl Packed {
    /// An operand of no columns.
    pub fn empty() -> Self {
        Packed {
            panels: Panels::new(isa(), 0),
            k: 0,
            groups: 0,
            data: AlignedBuf::new(),
        }
    }

    /// Packs `groups` operands of `cols` columns with the current instruction set; memory is kept.
    pub fn repack<'a>(
        &mut self,
        cols: usize,
        groups: usize,
        source: impl Fn(usize) -> Source<'a> + Sync,
    ) {
        self.panels = Panels::new(isa(), cols);
        self.groups = groups;
        self.k = if groups == 0 {
            0
        } else {
            source(0).taps.len() * source(0).channels
        };
        let panels = self.panels;
        let group_len = panels.padded() * self.k;
        let shared = SharedMut::new(self.data.resize(groups * group_len));
        // About 64 KB of packed data a chunk.
        let channels = if groups == 0 { 0 } else { source(0).channels };
        let taps = if groups == 0 {
            1
        } else {
            source(0).taps.len().max(1)
        };
        let part = (256 / taps).max(16);
        let parts = channels.div_ceil(part);
        parallel_for(groups * panels.count * parts, |i| {
            let (group, rest) = (i / (panels.count * parts), i % (panels.count * parts));
            let (panel, c) = (panels.get(rest / parts), rest % parts * part);
            let source = source(group);
            let end = (c + part).min(channels);
            let start = group * group_len + panel.col * self.k;
            for tap in 0..taps {
                let at = start + (tap * channels + c) * panel.width;
                // SAFETY: each (group, panel, tap, channel range) is one chunk's own part.
                let out = unsafe { shared.slice(at, (end - c) * panel.width) };
                pack_part(&source, tap, c, &panel, out);
            }
        });
    }

    /// The packed panel of a group.
    pub fn panel(&self, group: usize, panel: &Panel) -> &[f32] {
        let start = group * self.panels.padded() * self.k + panel.col * self.k;
        &self.data[start..start + panel.width * self.k]
    }
}

/// Writes channels `c..` of one tap of a panel.
fn pack_part(source: &Source<'_>, tap: usize, c: usize, panel: &Panel, out: &mut [f32]) {
    let base = source.taps[tap] * source.tap_stride;
    let at = |channel: usize, col: usize| {
        base + channel * source.channel_stride + (panel.col + col) * source.col_stride
    };
    if source.col_stride == 1 {
        for (i, row) in out.chunks_exact_mut(panel.width).enumerate() {
            let from = at(c + i, 0);
            row[..panel.cols].copy_from_slice(&source.data[from..from + panel.cols]);
            row[panel.cols..].fill(0.0);
        }
        return;
    }
    let rows = out.len() / panel.width;
    if rows == 0 {
        return;
    }
    for col in 0..panel.cols {
        let from = &source.data[at(c, col)..=at(c + rows - 1, col)];
        let to = out[col..].iter_mut().step_by(panel.width);
        if source.channel_stride == 1 {
            to.zip(from).for_each(|(to, from)| *to = *from);
        } else {
            let from = from.iter().step_by(source.channel_stride.max(1));
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
    }
    for row in out.chunks_exact_mut(panel.width) {
        row[panel.cols..].fill(0.0);
    }
}
