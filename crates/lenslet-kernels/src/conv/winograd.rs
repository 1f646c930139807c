//! Winograd's minimal filtering for 3 x 3 kernels of stride 1: F(4x4, 3x3) and F(2x2, 3x3).
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. Each tile of the input becomes 36 (16) numbers per
//! channel; one matrix product over the channels for each of them replaces 9 * 16 (9 * 4) multiplications by 36 (16).

use std::ops::Range;

use super::Conv2d;
use super::few_tiles::are_few;
use super::filters::{Filters, ROWS};
use super::transform::{F2, F4, Transform, input_transform, output_transform};
use crate::buffer::{AlignedBuf, with_local};
use crate::epilogue::Post;
use crate::matrix::Matrix;
use crate::moments::Chunk;
use crate::panels::{Packed, Panel, Panels};
use crate::pool::{SharedMut, parallel_for};
use crate::product::{MatrixRows, Output, Product};
use crate::simd::{Isa, Kernel, Simd, dispatch_on, isa};

/// Size of the output tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    F2,
    F4,
}

impl Size {
    /// Width of an output tile.
    pub(super) fn out(self) -> usize {
        match self {
            Size::F2 => F2::OUT,
            Size::F4 => F4::OUT,
        }
    }

    /// Products per tile.
    pub(super) fn planes(self) -> usize {
        match self {
            Size::F2 => F2::IN * F2::IN,
            Size::F4 => F4::IN * F4::IN,
        }
    }
}

/// Whether the algorithm computes this shape.
pub(super) fn serves(shape: &Conv2d) -> bool {
    shape.kernel == [3, 3]
        && shape.stride == [1, 1]
        && shape.dilation == [1, 1]
        && shape.groups == 1
        && shape.padding.iter().all(|&p| p <= 2)
}

/// Transformed weights: a packed operand for each of a tile's numbers.
#[derive(Debug)]
pub(super) struct Winograd {
    size: Size,
    transformed: Packed,
    zero: AlignedBuf,
}

/// What a pass reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub n: usize,
    pub x: Matrix<'a>,
    /// Height and width of input and output.
    pub input: [usize; 2],
    pub output: [usize; 2],
    /// Zeros above and left of the input.
    pub padding: [usize; 2],
    pub c_in: usize,
    pub c_out: usize,
    pub y: Output,
    pub post: Post,
}

/// Floats that a row of a transformed plane is longer than its channels, so that planes do not collide in the caches.
pub(super) const SKEW: usize = 16;
/// Bytes of transformed input and output that a thread works on at once: most of a small second cache level.
const BLOCK_BYTES: usize = 400 << 10;
/// Tiles that all threads work on together, where a block of one thread would be too small.
const SHARED_TILES: usize = 288;

/// How the tiles are cut. A function of the problem only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Each thread takes blocks of so many tiles from input to output.
    Blocks(usize),
    /// All threads transform so many tiles, then multiply, then transform back; transformed weights are read once for each.
    Shared(usize),
}

fn cut(size: Size, tiles: usize, c_in: usize, c_out: usize) -> Cut {
    let per_tile = size.planes() * (c_in + c_out + 2 * SKEW) * size_of::<f32>();
    let block = (BLOCK_BYTES / per_tile).min(48) / 6 * 6;
    if block < 12 || tiles < 6 * block {
        return Cut::Shared(tiles.div_ceil(tiles.div_ceil(SHARED_TILES)));
    }
    // Blocks of equal size.
    Cut::Blocks(tiles.div_ceil(tiles.div_ceil(block)))
}

impl Default for Winograd {
    fn default() -> Self {
        Winograd {
            size: Size::F4,
            transformed: Packed::empty(),
            zero: AlignedBuf::new(),
        }
    }
}

impl Winograd {
    /// Trades the memory of the transformed weights, which are lost, for other memory.
    pub fn trade(&mut self, with: &mut AlignedBuf) {
        std::mem::swap(&mut self.transformed.data, with);
        self.transformed.data.resize(0);
    }

    /// Transforms the weight of a pass.
    pub fn pack(&mut self, size: Size, filters: &Filters<'_>) {
        self.size = size;
        self.zero.resize(filters.k).fill(0.0);
        let panels = Panels::new(isa(), filters.cols);
        let k = filters.k;
        let to = &mut self.transformed;
        (to.panels, to.k, to.groups) = (panels, k, size.planes());
        let plane = panels.padded() * k;
        let shared = SharedMut::new(to.data.resize(to.groups * plane));
        let parts = k.div_ceil(ROWS);
        parallel_for(panels.count * parts, |i| {
            let (index, first) = (i / parts, i % parts * ROWS);
            let Panel { col, width, .. } = panels.get(index);
            let rows = first..(first + ROWS).min(k);
            // SAFETY: every plane holds `k` rows of every panel; these rows of this panel are this chunk's own.
            unsafe {
                let to = shared.as_mut_ptr().add(col * k + first * width);
                filters.transform(size, &panels, index, rows, to, plane);
            }
        });
    }

    pub fn isa(&self) -> Isa {
        self.transformed.panels.isa
    }

    /// Runs a pass.
    ///
    /// # Safety
    ///
    /// Input, output and post must cover `n` images of these sizes.
    pub unsafe fn run(&self, pass: &Pass<'_>, shared: [&mut AlignedBuf; 2]) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.size {
                Size::F2 => self.run_sized::<F2>(pass, shared),
                Size::F4 => self.run_sized::<F4>(pass, shared),
            }
        }
    }

    unsafe fn run_sized<T: Transform>(&self, pass: &Pass<'_>, [v, m]: [&mut AlignedBuf; 2]) {
        let grid = pass.output.map(|n| n.div_ceil(T::OUT));
        let tiles = pass.n * grid[0] * grid[1];
        let panels = self.transformed.panels;
        match cut(self.size, tiles, pass.c_in, pass.c_out) {
            Cut::Blocks(block) => {
                let blocks = tiles.div_ceil(block);
                parallel_for(blocks, |i| {
                    let range = i * tiles / blocks..(i + 1) * tiles / blocks;
                    let planes = Planes::new(range.len(), pass, &panels);
                    with_local(|local| {
                        let v = local.a.resize(T::IN * T::IN * planes.v_plane);
                        let m = local.b.resize(T::IN * T::IN * planes.m_plane);
                        let (v, m) = (v.as_mut_ptr(), m.as_mut_ptr());
                        let isa = panels.isa;
                        let part = Part {
                            pass,
                            grid,
                            tiles: range.clone(),
                            first: range.start,
                            planes,
                            zero: &self.zero,
                        };
                        let (cols, size) = (0..pass.c_out, T::default());
                        let input = In {
                            part: part.clone(),
                            v,
                            size,
                        };
                        dispatch_on(isa, input);
                        let rows = MatrixRows {
                            data: v,
                            ld: planes.v_row,
                            count: planes.tiles,
                        };
                        // SAFETY: planes of `tiles` rows of the operands' widths.
                        unsafe { product(&rows, &self.transformed, m, &planes).run_here() };
                        let output = Out {
                            part,
                            cols,
                            m,
                            size,
                        };
                        dispatch_on(isa, output);
                    });
                });
            }
            Cut::Shared(block) => {
                for start in (0..tiles).step_by(block) {
                    let range = start..(start + block).min(tiles);
                    let planes = Planes::new(range.len(), pass, &panels);
                    let v = Raw(v.resize(T::IN * T::IN * planes.v_plane).as_mut_ptr());
                    let m = Raw(m.resize(T::IN * T::IN * planes.m_plane).as_mut_ptr());
                    let part = Part {
                        pass,
                        grid,
                        tiles: range.clone(),
                        first: start,
                        planes,
                        zero: &self.zero,
                    };
                    part.on_all_threads(|part| {
                        let (v, size) = (v.pointer(), T::default());
                        dispatch_on(panels.isa, In { part, v, size });
                    });
                    let rows = MatrixRows {
                        data: v.pointer(),
                        ld: planes.v_row,
                        count: planes.tiles,
                    };
                    // SAFETY: as above.
                    unsafe { product(&rows, &self.transformed, m.pointer(), &planes).run() };
                    part.on_all_threads(|part| {
                        let (m, size) = (m.pointer(), T::default());
                        let cols = 0..pass.c_out;
                        dispatch_on(
                            panels.isa,
                            Out {
                                part,
                                cols,
                                m,
                                size,
                            },
                        );
                    });
                }
            }
        }
    }
}

/// The products of all planes: a group for each.
pub(super) fn product<'a>(
    rows: &'a MatrixRows,
    weights: &'a Packed,
    m: *mut f32,
    planes: &Planes,
) -> Product<'a, MatrixRows> {
    Product {
        rows,
        taps: 1,
        weights,
        output: Output {
            data: m,
            ld: planes.m_row,
        },
        post: None,
        accumulate: false,
        group_steps: [planes.v_plane, planes.m_plane],
    }
}

/// A pointer that chunks share, each using its own part.
pub(super) struct Raw(pub *mut f32);

// SAFETY: see the type's description; the buffer outlives the job.
unsafe impl Sync for Raw {}

impl Raw {
    pub fn pointer(&self) -> *mut f32 {
        self.0
    }
}

/// Where transformed tiles lie: number `p` of tile `t`, channel `c`, at `p * plane + t * row + c`.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    pub tiles: usize,
    pub v_row: usize,
    pub v_plane: usize,
    pub m_row: usize,
    pub m_plane: usize,
}

impl Planes {
    pub fn new(tiles: usize, pass: &Pass<'_>, panels: &Panels) -> Self {
        let v_row = pass.c_in.next_multiple_of(16) + SKEW;
        let m_row = panels.padded() + SKEW;
        Planes {
            tiles,
            v_row,
            v_plane: tiles * v_row + SKEW,
            m_row,
            m_plane: tiles * m_row + SKEW,
        }
    }
}

/// Some tiles of a pass; `first` is the one at row 0 of the planes.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub pass: &'a Pass<'a>,
    pub grid: [usize; 2],
    pub tiles: Range<usize>,
    pub first: usize,
    pub planes: Planes,
    pub zero: &'a AlignedBuf,
}

impl Part<'_> {
    /// Calls `f` with pieces of two tiles.
    pub fn on_all_threads(&self, f: impl Fn(Part<'_>) + Sync) {
        let Range { start, end } = self.tiles;
        let pieces = (end - start).div_ceil(2);
        let at = |i: usize| start + i * (end - start) / pieces;
        parallel_for(pieces, |i| {
            f(Part {
                tiles: at(i)..at(i + 1),
                ..self.clone()
            });
        });
    }

    /// Image, and first output row and column of a tile.
    pub fn place(&self, tile: usize, out: usize) -> [usize; 3] {
        let (row, col) = (tile / self.grid[1], tile % self.grid[1]);
        [row / self.grid[0], row % self.grid[0] * out, col * out]
    }
}

pub(super) struct In<'a, T> {
    pub part: Part<'a>,
    pub v: *mut f32,
    pub size: T,
}

impl<T: Transform> Kernel for In<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let _ = self.size;
        let Part {
            pass, ref planes, ..
        } = self.part;
        let [h, w] = pass.input;
        let data = pass.x.data.as_ptr();
        for tile in self.part.tiles.clone() {
            let [image, y, x] = self.part.place(tile, T::OUT);
            let mut pixels = [[self.part.zero.as_ptr(); 6]; 6];
            for (i, row) in pixels.iter_mut().enumerate().take(T::IN) {
                for (j, pixel) in row.iter_mut().enumerate().take(T::IN) {
                    let (y, x) = (
                        (y + i).wrapping_sub(pass.padding[0]),
                        (x + j).wrapping_sub(pass.padding[1]),
                    );
                    if y < h && x < w {
                        *pixel = data.wrapping_add(((image * h + y) * w + x) * pass.x.ld);
                    }
                }
            }
            let v = self.v.wrapping_add((tile - self.part.first) * planes.v_row);
            let mut c = 0;
            // SAFETY: pixels inside the image are readable for `c_in` floats (the caller of `run` promised), the zeros too; rows of
            // `v` hold `c_in` floats and more.
            unsafe {
                while c + S::LANES <= pass.c_in {
                    input_transform::<S, T, false>(s, &pixels, c, S::LANES, v, planes.v_plane);
                    c += S::LANES;
                }
                if c < pass.c_in {
                    input_transform::<S, T, true>(s, &pixels, c, pass.c_in - c, v, planes.v_plane);
                }
            }
        }
    }
}

/// Transforms tiles back: the channels `cols`, the first of which is at column 0 of the planes.
pub(super) struct Out<'a, T> {
    pub part: Part<'a>,
    pub cols: Range<usize>,
    pub m: *const f32,
    pub size: T,
}

impl<T: Transform> Kernel for Out<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let _ = self.size;
        let Part {
            pass, ref planes, ..
        } = self.part;
        let [h, w] = pass.output;
        for tile in self.part.tiles.clone() {
            let [image, y, x] = self.part.place(tile, T::OUT);
            let m = self.m.wrapping_add((tile - self.part.first) * planes.m_row);
            let extent = [(h - y).min(T::OUT), (w - x).min(T::OUT)];
            let first = (image * h + y) * w + x;
            for c in self.cols.clone().step_by(S::LANES) {
                let n = (self.cols.end - c).min(S::LANES);
                // SAFETY: rows of `m` hold whole vectors; the tile's pixels inside the image are writable for `c_out` floats by the
                // promise of `run`'s caller, and no other tile covers them.
                unsafe {
                    output_transform::<S, T>(
                        s,
                        m.wrapping_add(c - self.cols.start),
                        planes.m_plane,
                        pass.y,
                        &pass.post,
                        [first, w],
                        extent,
                        c,
                        n,
                    );
                }
            }
        }
        // SAFETY: `run`'s caller promised that the post is valid.
        if let Some(moments) = unsafe { pass.post.moments() } {
            let mut pixels = Vec::new();
            for tile in self.part.tiles.clone() {
                let [image, y, x] = self.part.place(tile, T::OUT);
                for y in y..(y + T::OUT).min(h) {
                    pixels.extend((x..(x + T::OUT).min(w)).map(|x| (image * h + y) * w + x));
                }
            }
            let output = (pass.y.data.cast_const(), pass.y.ld);
            let mut chunk = Chunk::new(moments, output, &pixels, self.cols.clone());
            // SAFETY: these channels of these pixels were just written, by this thread.
            unsafe { chunk.sum(s, self.cols.start, self.cols.len()) };
            chunk.finish();
        }
    }
}

/// The better transform, if one beats the direct form: rough times as functions of the shape, in multiply-accumulates.
///
/// `packs` says whether weights are transformed for every run, as in training.
pub(super) fn choose(
    shape: &Conv2d,
    output: [usize; 2],
    channels: [usize; 2],
    packs: bool,
) -> Option<Size> {
    let [c_in, c_out] = channels;
    if !serves(shape) || c_in < 16 || c_out < 16 {
        return None;
    }
    // A weight that is read from memory costs as much as 16 operations (two cores could do 22 to 34 meanwhile, and some of that time they
    // do), one that is transformed in a cache as much, one that is transformed and written first as 50.
    let weight = |written: bool| c_in * c_out * if written { 50 } else { 16 };
    let cost = |size: Size| {
        let tiles = shape.n * output[0].div_ceil(size.out()) * output[1].div_ceil(size.out());
        // Transforms move every number of a tile through the caches several times.
        tiles * size.planes() * (c_in * c_out + 24 * (c_in + c_out))
            + size.planes() * weight(packs && !are_few(size, shape.n, output, c_out))
    };
    let direct = shape.n * output[0] * output[1] * 9 * c_in * c_out + 9 * weight(packs);
    let best = if cost(Size::F4) <= cost(Size::F2) {
        Size::F4
    } else {
        Size::F2
    };
    (cost(best) < direct).then_some(best)
}
