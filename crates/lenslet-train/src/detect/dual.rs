//! Numbers that carry their derivatives (forward-mode differentiation).

use std::ops::{Add, Div, Mul, Neg, Sub};

/// A value and its derivatives by four variables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dual {
    pub value: f64,
    pub slopes: [f64; 4],
}

impl Dual {
    /// A number that does not vary.
    pub fn constant(value: f64) -> Self {
        Self {
            value,
            slopes: [0.0; 4],
        }
    }

    /// The variable of this number.
    pub fn variable(value: f64, number: usize) -> Self {
        let mut slopes = [0.0; 4];
        slopes[number] = 1.0;
        Self { value, slopes }
    }

    /// What a function of it gives, that has this value and slope there.
    fn through(self, value: f64, slope: f64) -> Self {
        Self {
            value,
            slopes: self.slopes.map(|s| s * slope),
        }
    }

    pub fn sigmoid(self) -> Self {
        let s = sigmoid(self.value);
        self.through(s, s * (1.0 - s))
    }

    pub fn exp(self) -> Self {
        let e = self.value.exp();
        self.through(e, e)
    }

    pub fn atan(self) -> Self {
        self.through(self.value.atan(), 1.0 / (1.0 + self.value * self.value))
    }

    pub fn max(self, other: Self) -> Self {
        if self.value >= other.value {
            self
        } else {
            other
        }
    }

    pub fn min(self, other: Self) -> Self {
        if self.value <= other.value {
            self
        } else {
            other
        }
    }
}

/// `1 / (1 + exp(-x))`
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Add for Dual {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            value: self.value + other.value,
            slopes: std::array::from_fn(|i| self.slopes[i] + other.slopes[i]),
        }
    }
}

impl Neg for Dual {
    type Output = Self;
    fn neg(self) -> Self {
        self.through(-self.value, -1.0)
    }
}

impl Sub for Dual {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Dual {
    type Output = Self;
    /// The slopes by the product rule.
    #[allow(clippy::suspicious_arithmetic_impl)]
    fn mul(self, other: Self) -> Self {
        Self {
            value: self.value * other.value,
            slopes: std::array::from_fn(|i| {
                self.slopes[i] * other.value + self.value * other.slopes[i]
            }),
        }
    }
}

impl Div for Dual {
    type Output = Self;
    /// The slopes by the quotient rule.
    #[allow(clippy::suspicious_arithmetic_impl)]
    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        Self {
            value,
            slopes: std::array::from_fn(|i| {
                (self.slopes[i] - value * other.slopes[i]) / other.value
            }),
        }
    }
}
