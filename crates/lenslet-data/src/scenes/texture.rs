//! Backgrounds: smooth noise between two colours, stripes, a slope of light, grain.

use crate::Rng;

/// A background of `size` x `size` pixels in RGB, `[size * size * 3]`, levels from 0 to 1.
pub(super) fn background(size: usize, rng: &mut Rng) -> Vec<f32> {
    // Dark enough that lighter digits stand out.
    let [from, to] = [0, 1].map(|_| [0; 3].map(|_| rng.range(0.05, 0.6) as f32));
    let near = rng.range(0.2, 0.5) as f32;
    let to: [f32; 3] = std::array::from_fn(|i| from[i] + (to[i] - from[i]) * near);
    let waves: Vec<Noise> = [4, 9, 21].map(|cells| Noise::new(cells, rng)).into();
    let stripes = rng.chance(0.5).then(|| {
        let angle = rng.range(0.0, std::f64::consts::PI);
        let pitch = size as f64 / rng.range(4.0, 14.0);
        [angle.cos() / pitch, angle.sin() / pitch].map(|v| v * std::f64::consts::TAU)
    });
    let slope = [rng.range(-0.15, 0.15), rng.range(-0.15, 0.15)];
    let mut pixels = Vec::with_capacity(size * size * 3);
    for y in 0..size {
        for x in 0..size {
            let (u, v) = (x as f64 / size as f64, y as f64 / size as f64);
            let weights = [0.5, 0.3, 0.2];
            let mut level: f64 = waves.iter().zip(weights).map(|(n, w)| n.at(u, v) * w).sum();
            if let Some([a, b]) = stripes {
                level = 0.75 * level + 0.25 * (0.5 + 0.5 * (a * x as f64 + b * y as f64).sin());
            }
            let light = slope[0] * (u - 0.5) + slope[1] * (v - 0.5) + rng.range(-0.03, 0.03);
            for (a, b) in from.iter().zip(to) {
                pixels.push((a + (b - a) * level as f32 + light as f32).clamp(0.0, 1.0));
            }
        }
    }
    pixels
}

/// Random levels at the corners of a grid, smooth between them.
struct Noise {
    cells: usize,
    corners: Vec<f64>,
}

impl Noise {
    fn new(cells: usize, rng: &mut Rng) -> Self {
        let side = cells + 1;
        let corners = (0..side * side).map(|_| rng.unit()).collect();
        Self { cells, corners }
    }

    /// At a place from 0 to 1.
    fn at(&self, u: f64, v: f64) -> f64 {
        let split = |t: f64| {
            let t = t * self.cells as f64;
            let cell = (t as usize).min(self.cells - 1);
            let part = t - cell as f64;
            // Level at the corners, so that the grid is not seen.
            (cell, part * part * (3.0 - 2.0 * part))
        };
        let ((x, fx), (y, fy)) = (split(u), split(v));
        let corner = |dx: usize, dy: usize| self.corners[(y + dy) * (self.cells + 1) + x + dx];
        let upper = corner(0, 0) * (1.0 - fx) + corner(1, 0) * fx;
        let lower = corner(0, 1) * (1.0 - fx) + corner(1, 1) * fx;
        upper * (1.0 - fy) + lower * fy
    }
}
