//! Anchors that suit the boxes of a dataset: J. Redmon, A. Farhadi, *YOLO9000*, CVPR 2017, section 2,
//! "Dimension Clusters": k-means with 1 - IoU as the distance.

/// Rounds of k-means.
const ROUNDS: usize = 50;

/// IoU of two boxes of these sizes on one centre.
pub(super) fn shape_iou(a: [f32; 2], b: [f32; 2]) -> f64 {
    let [aw, ah, bw, bh] = [a[0], a[1], b[0], b[1]].map(f64::from);
    let shared = aw.min(bw) * ah.min(bh);
    shared / (aw * ah + bw * bh - shared).max(1e-12)
}

/// `scales` lists of `count` sizes, smaller before larger, for boxes of these sizes (width, height).
/// The clusters start at the quantiles of the areas, so that the same boxes give the same anchors.
pub fn find_anchors(sizes: &[[f32; 2]], scales: usize, count: usize) -> Vec<Vec<[f32; 2]>> {
    let area = |s: &[f32; 2]| s[0] * s[1];
    let mut sorted = sizes.to_vec();
    sorted.sort_by(|a, b| area(a).total_cmp(&area(b)));
    let clusters = scales * count;
    let mut centres: Vec<[f32; 2]> = (0..clusters)
        .map(|i| match sorted.len() {
            0 => [16.0 * (i + 1) as f32; 2],
            n => sorted[((2 * i + 1) * n / (2 * clusters)).min(n - 1)],
        })
        .collect();
    for _ in 0..ROUNDS {
        let mut sums = vec![[0.0f64; 3]; clusters];
        for size in &sorted {
            let overlap = |i: &usize| shape_iou(centres[*i], *size);
            let best = (0..clusters).max_by(|a, b| overlap(a).total_cmp(&overlap(b)));
            let sum = &mut sums[best.unwrap_or(0)];
            sum[0] += f64::from(size[0]);
            sum[1] += f64::from(size[1]);
            sum[2] += 1.0;
        }
        let moved: Vec<[f32; 2]> = sums
            .iter()
            .zip(&centres)
            .map(|(sum, old)| match sum[2] {
                0.0 => *old,
                n => [(sum[0] / n) as f32, (sum[1] / n) as f32],
            })
            .collect();
        if moved == centres {
            break;
        }
        centres = moved;
    }
    centres.sort_by(|a, b| area(a).total_cmp(&area(b)));
    centres.chunks(count.max(1)).map(<[_]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_found() {
        let mut sizes = Vec::new();
        for i in 0..30 {
            let wobble = (i % 5) as f32 * 0.2;
            sizes.push([10.0 + wobble, 20.0]);
            sizes.push([40.0 + wobble, 30.0]);
        }
        let anchors = find_anchors(&sizes, 2, 1);
        let near = |a: [f32; 2], b: [f32; 2]| (a[0] - b[0]).abs() + (a[1] - b[1]).abs() < 1.5;
        assert!(near(anchors[0][0], [10.4, 20.0]), "{anchors:?}");
        assert!(near(anchors[1][0], [40.4, 30.0]), "{anchors:?}");
        assert_eq!(find_anchors(&[], 1, 3)[0].len(), 3);
    }
}
