//! Winograd's algorithm where a pass has few tiles and its weights serve no other: every thread transforms those of a panel for itself,
//! some rows at a time, multiplies them while they are in its cache, and transforms the panel's results back.
//!
//! On 7 x 7 maps transformed weights would take longer to write to memory and to read than to multiply. Where they are kept, as in
//! inference, reading them is faster than transforming.

use super::filters::{Filters, ROWS};
use super::transform::{F2, F4, Transform};
use super::winograd::{In, Out, Part, Pass, Planes, Raw, SKEW, Size, product};
use crate::buffer::{AlignedBuf, with_local};
use crate::panels::{Packed, Panel, Panels};
use crate::pool::parallel_for;
use crate::product::{MatrixRows, Product};
use crate::simd::{dispatch_on, isa};

/// Bytes of transformed weights that a thread makes and multiplies at a time. Less would read and write the results more often, more would
/// be no faster.
const WEIGHT_BYTES: usize = 600 << 10;
/// Numbers of a column's tiles that are few: the results of a panel stay in a cache while weights come and go.
const NUMBERS: usize = 64 * 36;
/// Columns from which there are panels enough for several threads.
const COLUMNS: usize = 256;

/// Whether so many images have tiles, but few, and the output channels enough panels.
pub(super) fn are_few(size: Size, n: usize, output: [usize; 2], c_out: usize) -> bool {
    let tiles = n * output[0].div_ceil(size.out()) * output[1].div_ceil(size.out());
    (1..=NUMBERS).contains(&(tiles * size.planes())) && c_out >= COLUMNS
}

/// Runs a pass.
///
/// # Safety
///
/// Input, output and post must cover the pass's images.
pub(super) unsafe fn run(size: Size, filters: &Filters<'_>, pass: &Pass<'_>, v: &mut AlignedBuf) {
    let panels = Panels::new(isa(), pass.c_out);
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            Size::F2 => run_sized::<F2>(size, filters, &panels, pass, v),
            Size::F4 => run_sized::<F4>(size, filters, &panels, pass, v),
        }
    }
}

unsafe fn run_sized<T: Transform>(
    size: Size,
    filters: &Filters<'_>,
    panels: &Panels,
    pass: &Pass<'_>,
    v: &mut AlignedBuf,
) {
    let grid = pass.output.map(|n| n.div_ceil(T::OUT));
    let tiles = pass.n * grid[0] * grid[1];
    let numbers = T::IN * T::IN;
    let planes = Planes::new(tiles, pass, panels);
    let v = Raw(v.resize(numbers * planes.v_plane).as_mut_ptr());
    let zero = &AlignedBuf::zeroed(pass.c_in);
    let part = Part {
        pass,
        grid,
        tiles: 0..tiles,
        first: 0,
        planes,
        zero,
    };
    part.on_all_threads(|part| {
        let (v, size) = (v.pointer(), T::default());
        dispatch_on(panels.isa, In { part, v, size });
    });
    parallel_for(panels.count, |i| {
        let Panel {
            col, cols, width, ..
        } = panels.get(i);
        let planes = Planes {
            m_row: width,
            m_plane: tiles * width + SKEW,
            ..planes
        };
        let most = (WEIGHT_BYTES / (numbers * width * size_of::<f32>())).next_multiple_of(ROWS);
        with_local(|local| {
            let m = local.b.resize(numbers * planes.m_plane).as_mut_ptr();
            let mut weights = Packed {
                panels: Panels::new(panels.isa, cols),
                k: 0,
                groups: numbers,
                // Planes would be powers of two apart, and all of a filter's numbers in a few sets of the caches.
                gap: SKEW,
                data: std::mem::take(&mut local.a),
            };
            for start in (0..filters.k).step_by(most) {
                let rows = start..(start + most).min(filters.k);
                weights.k = rows.len();
                let plane = rows.len() * width + weights.gap;
                let to = weights.data.resize(numbers * plane).as_mut_ptr();
                // SAFETY: this thread's planes of so many rows.
                unsafe { filters.transform(size, panels, i, rows, to, plane) };
                let rows = MatrixRows {
                    data: v.pointer().wrapping_add(start),
                    ld: planes.v_row,
                    count: tiles,
                };
                let product = Product {
                    accumulate: start > 0,
                    ..product(&rows, &weights, m, &planes)
                };
                // SAFETY: planes of `tiles` rows of the operands' widths.
                unsafe { product.run_here() };
            }
            local.a = weights.data;
            let out = Out {
                part: Part {
                    planes,
                    ..part.clone()
                },
                cols: col..col + cols,
                m,
                size: T::default(),
            };
            dispatch_on(panels.isa, out);
        });
    });
}
