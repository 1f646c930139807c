//! Pictures of any size through a model of a fixed one: overlapping tiles whose borders are blended.

use std::ops::Range;

/// Where tiles lie, along both axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiling {
    /// Height and width of the picture.
    pub picture: [usize; 2],
    /// Height and width of a tile.
    pub tile: [usize; 2],
    starts: [Vec<usize>; 2],
}

/// Share of a tile that the next one covers as well, at least.
const OVERLAP: f64 = 0.25;

impl Tiling {
    /// Tiles over a picture; one, reaching over its edge, where the picture is not larger.
    pub fn new(picture: [usize; 2], tile: [usize; 2]) -> Self {
        Self {
            picture,
            tile,
            starts: [0, 1].map(|axis| starts(picture[axis], tile[axis])),
        }
    }

    /// Top edges of the rows of tiles.
    pub fn rows(&self) -> &[usize] {
        &self.starts[0]
    }

    /// Left edges of the columns of tiles.
    pub fn columns(&self) -> &[usize] {
        &self.starts[1]
    }

    /// Rows of the picture that no row of tiles after number `row` touches.
    pub fn finished(&self, row: usize) -> Range<usize> {
        let from = |row: usize| self.starts[0].get(row).copied().unwrap_or(self.picture[0]);
        from(row)..from(row + 1)
    }

    /// How much position `at` of a tile counts along `axis`: less towards its edges, so that
    /// neighbours blend. Never 0.
    pub fn weight(&self, axis: usize, at: usize) -> f32 {
        let side = self.tile[axis];
        let edge = at.min(side - 1 - at) as f32 + 0.5;
        let ramp = (side as f64 * OVERLAP).max(1.0) as f32;
        (edge / ramp).min(1.0)
    }
}

fn starts(picture: usize, tile: usize) -> Vec<usize> {
    if picture <= tile {
        return vec![0];
    }
    let step = ((tile as f64 * (1.0 - OVERLAP)) as usize).max(1);
    let last = picture - tile;
    let count = last.div_ceil(step);
    // Evenly, so that the last two do not overlap much more than the others.
    (0..=count).map(|i| i * last / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_finished_once_and_every_pixel_covered() {
        for picture in [1usize, 7, 16, 17, 30, 100, 257] {
            let tiling = Tiling::new([picture, 40], [16, 16]);
            let rows: Vec<usize> = (0..tiling.rows().len())
                .flat_map(|row| tiling.finished(row))
                .collect();
            assert_eq!(rows, (0..picture).collect::<Vec<_>>(), "{picture}");
            for y in 0..picture {
                let covering = tiling.rows().iter().filter(|&&s| (s..s + 16).contains(&y));
                assert!(covering.count() >= 1, "{picture} {y}");
            }
            // Each overlaps the next by a quarter or more.
            assert!(
                tiling.rows().windows(2).all(|w| w[1] - w[0] <= 12),
                "{picture}"
            );
        }
    }

    #[test]
    fn weights_fall_towards_the_edges() {
        let tiling = Tiling::new([64, 64], [16, 16]);
        assert_eq!(tiling.weight(0, 8), 1.0);
        assert!(tiling.weight(0, 0) > 0.0 && tiling.weight(0, 0) < tiling.weight(0, 1));
        assert_eq!(tiling.weight(1, 0), tiling.weight(1, 15));
    }
}
