//! Values as the kernels want them: where they lie, and copies where a kernel needs another order.

use lenslet_graph::{ValueId, reference};

use super::{Planner, whole};
use crate::EngineError;
use crate::passes::Pass;
use crate::step::Call;
use crate::view::{Place, Rows, View};

impl Planner<'_> {
    /// A value's view; constants are computed when they are first read.
    pub(super) fn view(&mut self, id: ValueId) -> Result<View, EngineError> {
        if let Some(view) = self.views.get(&id) {
            return Ok(view.clone());
        }
        debug_assert!(self.fixed[id.index()], "read before it is computed");
        self.constants.push(reference::constant(self.graph, id)?);
        let place = Place::Constant(self.constants.len() - 1);
        let view = View::dense(place, self.shape(id));
        self.views.insert(id, view.clone());
        Ok(view)
    }

    pub(super) fn constant(&self, id: ValueId) -> Result<Vec<f32>, EngineError> {
        Ok(reference::constant(self.graph, id)?)
    }

    /// A copy of a view with the memory order of `like`, whose place does not matter.
    pub(super) fn copied(&mut self, from: View, mut like: View) -> View {
        like.place = self.buffer(like.len());
        like.offset = 0;
        let to = Rows {
            place: like.place,
            offset: 0,
            rows: 1,
            cols: like.len(),
            ld: like.len(),
        };
        let call = Call::Copy {
            from,
            to: like.clone(),
        };
        self.push(call, to);
        like
    }

    /// A feature map as rows of channels.
    pub(super) fn pixels(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let view = self.view(id)?;
        if let Some(rows) = view.as_pixels() {
            return Ok(rows);
        }
        let shape = view.shape.clone();
        let [n, c, h, w] = shape[..] else {
            unreachable!("feature maps have four dimensions")
        };
        let place = self.buffer(view.len());
        let map = View::pixels(place, 0, &shape, c);
        let to = Rows {
            place,
            offset: 0,
            rows: n * h * w,
            cols: c,
            ld: c,
        };
        let call = match view.is_row_major() {
            true => Call::ChannelsLast {
                x: whole(&view),
                shape: [n, c, h * w],
            },
            false => Call::Copy {
                from: view,
                to: map.clone(),
            },
        };
        self.push(call, to);
        // Whoever reads the value next finds it in this order.
        self.views.insert(id, map);
        Ok(to)
    }

    /// The same without gaps between the pixels.
    pub(super) fn dense_pixels(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let rows = self.pixels(id)?;
        if rows.ld == rows.cols {
            return Ok(rows);
        }
        let view = self.view(id)?;
        let like = View::pixels(view.place, 0, &view.shape, rows.cols);
        let copy = self.copied(view, like);
        Ok(Rows {
            place: copy.place,
            offset: 0,
            ld: rows.cols,
            ..rows
        })
    }

    /// All but the last dimension as rows.
    pub(super) fn rows(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let view = self.view(id)?;
        Ok(match view.as_rows() {
            Some(rows) => rows,
            None => self.row_major(id)?,
        })
    }

    /// A value in row-major order without gaps.
    pub(super) fn row_major(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let mut view = self.view(id)?;
        if !view.is_row_major() {
            let like = View::dense(view.place, &view.shape);
            view = self.copied(view, like);
        }
        let cols = view.shape.last().copied().unwrap_or(1);
        Ok(Rows {
            rows: view.len() / cols.max(1),
            cols,
            ld: cols,
            ..whole(&view)
        })
    }

    /// Where a layer that writes rows of channels puts a feature map.
    pub(super) fn map(&mut self, id: ValueId, reads: &[Place]) -> (View, Rows) {
        let shape = self.shape(id).to_vec();
        let view = match self.homes.get(&id) {
            Some(home) if !reads.contains(&home.place) => home.clone(),
            _ => {
                let place = self.buffer(shape.iter().product());
                View::pixels(place, 0, &shape, shape[1])
            }
        };
        let ld = view.strides[3];
        let rows = Rows {
            place: view.place,
            offset: view.offset,
            rows: shape[0] * shape[2] * shape[3],
            cols: shape[1],
            ld,
        };
        (view, rows)
    }

    /// As [`Planner::map`], for a layer that may write the means of its rows of pixels: with room for them behind the map, where its producer
    /// `can` and an average over the map is made of them, and how many these are.
    pub(super) fn map_with_means(
        &mut self,
        id: ValueId,
        reads: &[Place],
        can: bool,
    ) -> (View, Rows, usize) {
        let (view, to) = self.map(id, reads);
        let wanted = can && self.averaged.contains(&id) && !self.homes.contains_key(&id);
        let (Place::Buffer(place), true) = (to.place, wanted) else {
            return (view, to, 0);
        };
        let rows = view.shape[0] * view.shape[2];
        let means = Rows {
            offset: to.rows * to.cols,
            rows,
            ..to
        };
        self.buffers[place] += rows * to.cols;
        self.row_means.insert(id, means);
        self.tally.add(Pass::RowMeans);
        (view, to, rows * to.cols)
    }

    /// Where a layer that writes rows puts a value.
    pub(super) fn fresh(&mut self, id: ValueId) -> (View, Rows) {
        let shape = self.shape(id).to_vec();
        let place = self.buffer(shape.iter().product());
        let view = View::dense(place, &shape);
        let cols = shape.last().copied().unwrap_or(1);
        let rows = Rows {
            rows: view.len() / cols.max(1),
            cols,
            ld: cols,
            ..whole(&view)
        };
        (view, rows)
    }

    /// A value whose elements lie in the order of `like`, without gaps.
    pub(super) fn dense_like(&mut self, id: ValueId, like: &View) -> Result<Rows, EngineError> {
        let view = self.view(id)?;
        if view.lies_like(like) && view.is_dense() {
            return Ok(whole(&view));
        }
        let copy = self.copied(view, like.clone());
        Ok(whole(&copy))
    }

    /// Rows without gaps.
    pub(super) fn dense_rows(&mut self, id: ValueId) -> Result<Rows, EngineError> {
        let rows = self.rows(id)?;
        if rows.ld == rows.cols {
            return Ok(rows);
        }
        self.row_major(id)
    }
}
