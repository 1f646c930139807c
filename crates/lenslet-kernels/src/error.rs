//! The crate's error type and the checks that return it.

/// Why a kernel refused its arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A slice has another length than the shape says.
    #[error("{what}: expected {expected} elements, found {found}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Elements that the shape asks for (at least, where rows are strided).
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// A row stride is smaller than a row.
    #[error("{what}: row stride {ld} is smaller than a row of {cols}")]
    RowStride {
        /// Which argument.
        what: &'static str,
        /// Columns of a row.
        cols: usize,
        /// The stride given.
        ld: usize,
    },
    /// The shape itself is impossible.
    #[error("{what}: {why}")]
    Shape {
        /// Which shape.
        what: &'static str,
        /// What is wrong with it, and with which numbers.
        why: String,
    },
}

/// Elements of a shape. A product that overflows saturates: no slice is that long, so the length check that
/// follows refuses it.
pub(crate) fn elements<const N: usize>(shape: [usize; N]) -> usize {
    shape.into_iter().fold(1, usize::saturating_mul)
}

/// Exactly `expected` elements.
pub(crate) fn expect_len(
    what: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), KernelError> {
    if found == expected {
        Ok(())
    } else {
        Err(KernelError::Length {
            what,
            expected,
            found,
        })
    }
}

/// Enough elements for `rows` rows of `cols` elements that start `ld` apart.
pub(crate) fn expect_rows(
    what: &'static str,
    found: usize,
    rows: usize,
    cols: usize,
    ld: usize,
) -> Result<(), KernelError> {
    if ld < cols {
        return Err(KernelError::RowStride { what, cols, ld });
    }
    if rows == 0 {
        return Ok(());
    }
    let expected = (rows - 1)
        .checked_mul(ld)
        .and_then(|n| n.checked_add(cols))
        .ok_or_else(|| KernelError::Shape {
            what,
            why: format!("{rows} rows of {ld} overflow"),
        })?;
    if found < expected {
        Err(KernelError::Length {
            what,
            expected,
            found,
        })
    } else {
        Ok(())
    }
}
