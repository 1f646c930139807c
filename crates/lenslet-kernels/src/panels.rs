//! Packing of the right-hand operand into panels: `[panel][k][columns of the panel]`, the last panel's columns padded with
//! zeros to whole vectors.

use std::ops::Range;

use crate::buffer::AlignedBuf;
use crate::pool::{SharedMut, parallel_for};
use crate::simd::{Isa, Kernel, Simd, dispatch_on, isa};
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
        let widest = max_vectors(registers);
        let count = match vectors.div_ceil(widest) {
            // Two threads share an even number evenly. Panels of three vectors are as fast as those of four.
            count if widest == 4 && count % 2 == 1 && vectors >= 3 * (count + 1) => count + 1,
            count => count,
        };
        Panels {
            isa,
            n,
            count,
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
    /// Floats between one group and the next.
    pub gap: usize,
    pub data: AlignedBuf,
}

impl Packed {
    /// An operand of no columns.
    pub fn empty() -> Self {
        Packed {
            panels: Panels::new(isa(), 0),
            k: 0,
            groups: 0,
            gap: 0,
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
        (self.groups, self.gap) = (groups, 0);
        self.k = if groups == 0 {
            0
        } else {
            source(0).taps.len() * source(0).channels
        };
        let panels = self.panels;
        let group_len = panels.padded() * self.k;
        let shared = SharedMut::new(self.data.resize(groups * group_len));
        let (channels, taps, contiguous) = match groups {
            0 => (0, 1, false),
            _ => {
                let Source { channels, taps, .. } = source(0);
                (channels, taps.len().max(1), source(0).col_stride == 1)
            }
        };
        // Where columns lie one after the other, a page's worth of them at a time: pieces a panel wide would come from memory one by one.
        let together = match contiguous {
            true => PANELS_TOGETHER.min(panels.count).max(1),
            false => 1,
        };
        // About 64 KB of packed data a chunk, in whole vectors of channels.
        let part = (256 / taps / together).next_multiple_of(16).max(16);
        let parts = channels.div_ceil(part);
        let blocks = panels.count.div_ceil(together);
        parallel_for(groups * blocks * parts, |i| {
            let (group, rest) = (i / (blocks * parts), i % (blocks * parts));
            let (block, first) = (rest / parts * together, rest % parts * part);
            let source = source(group);
            let end = (block + together).min(panels.count);
            let last = panels.get(end - 1);
            assert!(
                (group * panels.padded() + last.col + last.width) * self.k <= shared.len(),
                "packed data is too short"
            );
            let part = PackPart {
                source: &source,
                panels: &panels,
                range: block..end,
                channels: first..(first + part).min(channels),
                k: self.k,
                // Each chunk writes its own channels of its own panels.
                out: shared.as_mut_ptr().wrapping_add(group * group_len),
            };
            dispatch_on(panels.isa, part);
        });
    }

    /// The packed panel of a group.
    pub fn panel(&self, group: usize, panel: &Panel) -> &[f32] {
        let start = group * (self.panels.padded() * self.k + self.gap) + panel.col * self.k;
        &self.data[start..start + panel.width * self.k]
    }
}

/// Panels that are packed together where columns are contiguous.
const PANELS_TOGETHER: usize = 16;

/// Packs one panel, all of a source's channels, on this thread.
pub(crate) fn pack_panel(source: &Source<'_>, panels: &Panels, index: usize, to: &mut [f32]) {
    let Panel { col, width, .. } = panels.get(index);
    let k = source.taps.len() * source.channels;
    assert!(to.len() >= k * width, "packed data is too short");
    let part = PackPart {
        source,
        panels,
        range: index..index + 1,
        channels: 0..source.channels,
        k,
        out: to.as_mut_ptr().wrapping_sub(col * k),
    };
    dispatch_on(panels.isa, part);
}

/// Packs some channels of some panels: row `tap * source.channels + channel` of each.
struct PackPart<'a> {
    source: &'a Source<'a>,
    panels: &'a Panels,
    range: Range<usize>,
    channels: Range<usize>,
    /// Rows of a panel.
    k: usize,
    /// Start of the group's panels.
    out: *mut f32,
}

impl Kernel for PackPart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.source.col_stride == 1 {
            self.copy_rows();
        } else {
            for index in self.range.clone() {
                self.pack(s, &self.panels.get(index));
            }
        }
    }
}

impl PackPart<'_> {
    /// Columns that lie one after the other.
    fn copy_rows(&self) {
        let source = self.source;
        for (tap, &from) in source.taps.iter().enumerate() {
            for channel in self.channels.clone() {
                let row = tap * source.channels + channel;
                let at = from * source.tap_stride + channel * source.channel_stride;
                for index in self.range.clone() {
                    let Panel {
                        col, cols, width, ..
                    } = self.panels.get(index);
                    let to = self.out.wrapping_add(col * self.k + row * width);
                    // SAFETY: this chunk's own row of the panel.
                    let to = unsafe { std::slice::from_raw_parts_mut(to, width) };
                    to[..cols].copy_from_slice(&source.data[at + col..at + col + cols]);
                    to[cols..].fill(0.0);
                }
            }
        }
    }

    /// Columns further apart.
    #[inline(always)]
    fn pack<S: Simd>(&self, s: S, panel: &Panel) {
        let Panel {
            col, cols, width, ..
        } = *panel;
        let out = self.out.wrapping_add(col * self.k);
        let source = self.source;
        let taps = source.taps.len();
        let natural = source.tap_stride == 1
            && source.channel_stride == taps
            && source.taps.iter().enumerate().all(|(i, &tap)| i == tap);
        let turned = source.channel_stride == 1 && taps == 1;
        let row = |tap: usize, channel: usize| {
            out.wrapping_add((tap * source.channels + channel) * width)
        };
        // Whole vectors of columns through a transpose of blocks, where (channel, tap) pairs are contiguous in the source.
        let mut done = 0;
        if natural || turned {
            let first = self.channels.start * taps;
            let len = self.channels.len() * taps;
            let mut block = [0.0f32; 16 * 16];
            while done + S::LANES <= cols {
                let at = (col + done) * source.col_stride
                    + first
                    + if turned {
                        source.taps[0] * source.tap_stride
                    } else {
                        0
                    };
                let from = &source.data[at..at + (S::LANES - 1) * source.col_stride + len];
                let mut i = 0;
                while i + S::LANES <= len {
                    // SAFETY: the block lies inside `from`; the rows written are this chunk's own.
                    unsafe {
                        let from = from.as_ptr().add(i);
                        if taps == 1 {
                            let to = row(0, self.channels.start + i).add(done);
                            s.transpose(from, source.col_stride, to, width);
                        } else {
                            s.transpose(from, source.col_stride, block.as_mut_ptr(), S::LANES);
                            for j in 0..S::LANES {
                                let pair = i + j;
                                let to = row(pair % taps, self.channels.start + pair / taps);
                                s.store(to.add(done), s.load(block.as_ptr().add(j * S::LANES)));
                            }
                        }
                    }
                    i += S::LANES;
                }
                for pair in i..len {
                    for j in 0..S::LANES {
                        let to = row(pair % taps, self.channels.start + pair / taps);
                        // SAFETY: this chunk's own row of the panel.
                        unsafe { *to.add(done + j) = from[j * source.col_stride + pair] };
                    }
                }
                done += S::LANES;
            }
        }
        if source.tap_stride == 1 && source.channel_stride > source.col_stride {
            // The weight of an input gradient: a channel's columns lie one after the other, each with its taps.
            for channel in self.channels.clone() {
                let at = channel * source.channel_stride + col * source.col_stride;
                for (tap, &from) in source.taps.iter().enumerate() {
                    // SAFETY: this chunk's own row of the panel.
                    let to = unsafe { std::slice::from_raw_parts_mut(row(tap, channel), width) };
                    let from = source.data[at + from..].iter().step_by(source.col_stride);
                    to[..cols]
                        .iter_mut()
                        .zip(from)
                        .for_each(|(to, from)| *to = *from);
                    to[cols..].fill(0.0);
                }
            }
            return;
        }
        for channel in self.channels.clone() {
            for j in done..width {
                for (tap, &from) in source.taps.iter().enumerate() {
                    let x = if j < cols {
                        source.data[from * source.tap_stride
                            + channel * source.channel_stride
                            + (col + j) * source.col_stride]
                    } else {
                        0.0
                    };
                    // SAFETY: this chunk's own row of the panel.
                    unsafe { *row(tap, channel).add(j) = x };
                }
            }
        }
    }
}
