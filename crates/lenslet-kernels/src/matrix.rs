//! Row-strided views: pixels or samples as rows, channels or features as columns.

use crate::error::{KernelError, expect_rows};

/// A matrix to read: row `r`, column `c` is element `r * ld + c` of `data`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Floats from one row to the next; at least the number of columns.
    pub ld: usize,
}

impl<'a> Matrix<'a> {
    /// A view with row stride `ld`.
    pub fn new(data: &'a [f32], ld: usize) -> Self {
        Matrix { data, ld }
    }

    pub(crate) fn check(
        &self,
        what: &'static str,
        rows: usize,
        cols: usize,
    ) -> Result<(), KernelError> {
        expect_rows(what, self.data.len(), rows, cols, self.ld)
    }
}

/// A matrix to write: row `r`, column `c` is element `r * ld + c` of `data`. Elements between the rows are not touched.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    /// The elements.
    pub data: &'a mut [f32],
    /// Floats from one row to the next; at least the number of columns.
    pub ld: usize,
}

impl<'a> MatrixMut<'a> {
    /// A view with row stride `ld`.
    pub fn new(data: &'a mut [f32], ld: usize) -> Self {
        MatrixMut { data, ld }
    }

    pub(crate) fn check(
        &self,
        what: &'static str,
        rows: usize,
        cols: usize,
    ) -> Result<(), KernelError> {
        expect_rows(what, self.data.len(), rows, cols, self.ld)
    }
}
