//! Channels put together, taken apart, and moved between PyTorch's layout and this crate's.

use crate::columns::rows_per_chunk;
use crate::error::{KernelError, elements, expect_len};
use crate::pool::parallel_chunks_mut;

/// Joins buffers of `rows` rows side by side: part `i` has `parts[i].1` channels.
///
/// # Errors
///
/// If a slice has the wrong length.
pub fn concat_channels(
    rows: usize,
    parts: &[(&[f32], usize)],
    out: &mut [f32],
) -> Result<(), KernelError> {
    for (part, channels) in parts {
        expect_len("part to join", part.len(), elements([rows, *channels]))?;
    }
    let width = parts.iter().map(|(_, channels)| channels).sum();
    expect_len("joined channels", out.len(), elements([rows, width]))?;
    if width == 0 {
        return Ok(());
    }
    let step = rows_per_chunk(out.len() / width, width);
    parallel_chunks_mut(out, step * width, |chunk, out| {
        for (row, out) in (chunk * step..).zip(out.chunks_exact_mut(width)) {
            let mut at = 0;
            for (part, channels) in parts {
                let from = &part[row * channels..][..*channels];
                out[at..at + channels].copy_from_slice(from);
                at += channels;
            }
        }
    });
    Ok(())
}

/// Takes the channels `from..from + channels` of rows of `width` out; `out` has `channels` a row.
///
/// # Errors
///
/// If a slice has the wrong length or the rows are not that wide.
pub fn slice_channels(
    x: &[f32],
    width: usize,
    from: usize,
    channels: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    if from.saturating_add(channels) > width {
        return Err(KernelError::Shape {
            what: "channels to take",
            why: format!("{channels} from {from} on, of {width}"),
        });
    }
    if channels == 0 {
        return expect_len("channels taken", out.len(), 0);
    }
    let rows = x.len() / width;
    expect_len("rows of channels", x.len(), elements([rows, width]))?;
    expect_len("channels taken", out.len(), elements([rows, channels]))?;
    let step = rows_per_chunk(rows, channels);
    parallel_chunks_mut(out, step * channels, |chunk, out| {
        for (row, out) in (chunk * step..).zip(out.chunks_exact_mut(channels)) {
            out.copy_from_slice(&x[row * width + from..][..channels]);
        }
    });
    Ok(())
}

/// `[images, channels, pixels]` to `[images, pixels, channels]`. (With the last two exchanged, it is its own inverse.)
///
/// # Errors
///
/// If a slice has the wrong length.
pub fn channels_last(
    [images, channels, pixels]: [usize; 3],
    x: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let len = elements([images, channels, pixels]);
    expect_len("channels first", x.len(), len)?;
    expect_len("channels last", out.len(), len)?;
    if len == 0 {
        return Ok(());
    }
    let step = rows_per_chunk(pixels, channels);
    let per_image = pixels.div_ceil(step);
    let image_len = pixels * channels;
    // Chunks must not cross images: an image at a time where there is more than one chunk in it.
    for (x, out) in x
        .chunks_exact(image_len)
        .zip(out.chunks_exact_mut(image_len))
    {
        let transpose = |chunk: usize, out: &mut [f32]| {
            for c in 0..channels {
                let from = &x[c * pixels + chunk * step..];
                let to = out[c..].iter_mut().step_by(channels);
                to.zip(from).for_each(|(to, from)| *to = *from);
            }
        };
        if per_image == 1 {
            transpose(0, out);
        } else {
            parallel_chunks_mut(out, step * channels, transpose);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn joined_and_taken_apart(rows in 1usize..300, widths in proptest::collection::vec(0usize..70, 1..5)) {
            let parts: Vec<Vec<f32>> = (widths.iter().zip(0..))
                .map(|(width, seed)| random(rows * width, seed))
                .collect();
            let width: usize = widths.iter().sum();
            let views: Vec<_> = parts.iter().map(|p| &p[..]).zip(widths.iter().copied()).collect();
            let mut out = vec![f32::NAN; rows * width];
            concat_channels(rows, &views, &mut out).unwrap();
            let mut from = 0;
            for (part, &channels) in parts.iter().zip(&widths) {
                let mut back = vec![f32::NAN; rows * channels];
                slice_channels(&out, width, from, channels, &mut back).unwrap();
                prop_assert_eq!(&back, part);
                for row in 0..rows {
                    prop_assert_eq!(
                        &out[row * width + from..][..channels],
                        &part[row * channels..][..channels]
                    );
                }
                from += channels;
            }
        }

        #[test]
        fn layouts(images in 1usize..4, channels in 1usize..9, pixels in 1usize..20_000) {
            let x = random(images * channels * pixels, 7);
            let mut y = vec![f32::NAN; x.len()];
            channels_last([images, channels, pixels], &x, &mut y).unwrap();
            for (i, &value) in y.iter().enumerate() {
                let (image, rest) = (i / (pixels * channels), i % (pixels * channels));
                let (pixel, channel) = (rest / channels, rest % channels);
                prop_assert_eq!(value, x[(image * channels + channel) * pixels + pixel]);
            }
            let mut back = vec![f32::NAN; x.len()];
            channels_last([images, pixels, channels], &y, &mut back).unwrap();
            prop_assert_eq!(back, x);
        }
    }

    #[test]
    fn refusals() {
        let x = [0.0f32; 6];
        let mut out = [0.0f32; 6];
        assert!(concat_channels(2, &[(&x, 2)], &mut out).is_err());
        assert!(concat_channels(2, &[(&x, 3)], &mut out[..5]).is_err());
        assert!(slice_channels(&x, 3, 2, 2, &mut out[..4]).is_err());
        assert!(slice_channels(&x, 4, 0, 2, &mut out[..4]).is_err());
        assert!(channels_last([2, 2, 2], &x, &mut out).is_err());
    }
}
