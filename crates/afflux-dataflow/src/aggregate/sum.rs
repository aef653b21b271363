//! `sum` and `avg`.
//!
//! - Of integers and decimals: the sum is kept in 128 bits, so it is exact, and what was added
//!   can be taken back. A mean is that sum by the count, rounded once to the nearest double, or
//!   for decimals cut off behind the last digit, as DataFusion does.
//! - Of floats: the sum is kept in two doubles whose digits do not overlap (about 106 bits;
//!   Dekker, Knuth). One addition errs by at most `2^-104` of the greatest sum so far, so a
//!   group of fewer than 2^40 values whose partial sums stay within 2^10 of the result differs
//!   from the exact sum by less than one unit in the last place, whatever the order, and
//!   additions that are taken back leave that much at most. Not-a-number and infinities are
//!   counted apart, so that they too can be taken back. A sum beyond the range of doubles stays
//!   infinite until its group is empty.
//! - An empty group has no sum: null.
//!
//! A sum never wraps. Where nothing is taken back, [`Exact::overflowing`] finds the rows that
//! would leave the range of the result's type, and they are rejected:
//!
//! 1. `bound` is at least the greatest magnitude of any group's sum. A batch whose magnitudes add
//!    up to less than what is left to the limit is fine: one pass over the values.
//! 2. Otherwise the bound is made exact, once, and the batch is tried again.
//! 3. Only then are the rows added one by one, on the side.

use std::{collections::HashMap, sync::Arc};

use afflux_state::{Reader, StateError};
use afflux_types::OperatorId;
use arrow::{
    array::{
        ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Float64Array, Int64Array,
        UInt64Array,
    },
    datatypes::{
        DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
        Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};

use super::accumulator::{Accumulator, Rows};
use crate::DataflowError;

/// The accumulator for an argument's type, if there is one.
pub(super) fn build(
    operator: OperatorId,
    mean: bool,
    argument: &DataType,
    returns: &DataType,
) -> Option<Box<dyn Accumulator>> {
    let output = match (returns, mean) {
        (DataType::Int64, false) => Output::Signed,
        (DataType::UInt64, false) => Output::Unsigned,
        (DataType::Decimal128(precision, scale), _) => {
            let DataType::Decimal128(_, from) = argument else {
                return None;
            };
            let added = u32::try_from(scale.checked_sub(*from)?).ok()?;
            if !mean && added != 0 {
                return None;
            }
            let (precision, scale) = (*precision, *scale);
            Output::Decimal { precision, scale, factor: 10i128.checked_pow(added)?, mean }
        }
        (DataType::Float64, _) => match argument {
            DataType::Float64 => return Some(Box::new(Float::<Float64Type>::new(mean))),
            DataType::Float32 => return Some(Box::new(Float::<Float32Type>::new(mean))),
            _ if mean => Output::Mean,
            _ => return None,
        },
        _ => return None,
    };
    let whole = !matches!(output, Output::Decimal { .. });
    Some(match argument {
        DataType::Int8 if whole => Box::new(Exact::<Int8Type>::new(operator, output)),
        DataType::Int16 if whole => Box::new(Exact::<Int16Type>::new(operator, output)),
        DataType::Int32 if whole => Box::new(Exact::<Int32Type>::new(operator, output)),
        DataType::Int64 if whole => Box::new(Exact::<Int64Type>::new(operator, output)),
        DataType::UInt8 if whole => Box::new(Exact::<UInt8Type>::new(operator, output)),
        DataType::UInt16 if whole => Box::new(Exact::<UInt16Type>::new(operator, output)),
        DataType::UInt32 if whole => Box::new(Exact::<UInt32Type>::new(operator, output)),
        DataType::UInt64 if whole => Box::new(Exact::<UInt64Type>::new(operator, output)),
        DataType::Decimal128(..) if !whole => {
            Box::new(Exact::<Decimal128Type>::new(operator, output))
        }
        _ => return None,
    })
}

/// What becomes of an exact sum.
#[derive(Debug, Clone, Copy)]
enum Output {
    Signed,
    Unsigned,
    Mean,
    Decimal { precision: u8, scale: i8, factor: i128, mean: bool },
}

impl Output {
    /// The range that sums may have.
    fn range(self) -> (i128, i128) {
        match self {
            Self::Signed => (i64::MIN.into(), i64::MAX.into()),
            Self::Unsigned => (0, u64::MAX.into()),
            Self::Mean => (i128::MIN, i128::MAX),
            Self::Decimal { precision, factor, mean, .. } => {
                // A mean's sum has all digits there are, less those that the mean appends.
                let precision = if mean { 38 } else { precision };
                let limit = (10i128.pow(u32::from(precision)) - 1) / factor;
                (-limit, limit)
            }
        }
    }
}

/// Sums of integers and decimals.
#[derive(Debug)]
struct Exact<T> {
    operator: OperatorId,
    output: Output,
    sums: Vec<i128>,
    counts: Vec<i64>,
    bound: u128,
    argument: std::marker::PhantomData<fn(T)>,
}

impl<T: ArrowPrimitiveType> Exact<T>
where
    T::Native: Into<i128>,
{
    fn new(operator: OperatorId, output: Output) -> Self {
        let argument = std::marker::PhantomData;
        Self { operator, output, sums: Vec::new(), counts: Vec::new(), bound: 0, argument }
    }

    fn values<'a>(rows: &Rows<'a>) -> &'a [T::Native] {
        rows.argument.expect("a sum has an argument").as_primitive::<T>().values()
    }

    fn out_of_range(&self) -> DataflowError {
        let (aggregate, range) = match self.output {
            Output::Signed => ("sum", "a 64-bit integer".to_owned()),
            Output::Unsigned => ("sum", "an unsigned 64-bit integer".to_owned()),
            Output::Mean => ("avg", "a 128-bit sum".to_owned()),
            Output::Decimal { precision, scale, mean, .. } => {
                (if mean { "avg" } else { "sum" }, format!("DECIMAL({precision}, {scale})"))
            }
        };
        DataflowError::OutOfRange { operator: self.operator, aggregate, range }
    }

    /// `f(sum, count)` for each group that is not empty.
    fn collect<R, A: FromIterator<Option<R>>>(
        &self,
        slots: &[u32],
        f: impl Fn(i128, i64) -> Option<R>,
    ) -> Result<A, DataflowError> {
        let result = |&slot: &u32| match self.counts[slot as usize] {
            0 => Ok(None),
            count => match f(self.sums[slot as usize], count) {
                Some(result) => Ok(Some(result)),
                None => Err(self.out_of_range()),
            },
        };
        slots.iter().map(result).collect()
    }
}

impl<T: ArrowPrimitiveType + std::fmt::Debug> Accumulator for Exact<T>
where
    T::Native: Into<i128>,
{
    fn grow(&mut self, slots: usize) {
        self.sums.resize(slots, 0);
        self.counts.resize(slots, 0);
    }

    fn overflowing(&mut self, rows: &Rows<'_>) -> Vec<usize> {
        let (min, max) = self.output.range();
        let limit = max.unsigned_abs();
        let values = Self::values(rows);
        let mut added = 0u128;
        rows.for_each(|row, _, weight| {
            let magnitude = values[row].into().unsigned_abs();
            added = added.saturating_add(magnitude.saturating_mul(weight.unsigned_abs().into()));
        });
        if self.bound.saturating_add(added) > limit {
            self.bound = self.sums.iter().map(|sum| sum.unsigned_abs()).max().unwrap_or(0);
        }
        let after = self.bound.saturating_add(added);
        if after <= limit {
            self.bound = after;
            return Vec::new();
        }
        let mut beside: HashMap<usize, i128> = HashMap::new();
        let mut bad = Vec::new();
        rows.for_each(|row, slot, weight| {
            let sum = beside.entry(slot).or_insert(self.sums[slot]);
            let value: i128 = values[row].into();
            match value.checked_mul(weight.into()).and_then(|value| sum.checked_add(value)) {
                Some(next) if (min..=max).contains(&next) => *sum = next,
                _ => bad.push(row),
            }
        });
        self.bound = limit;
        bad
    }

    fn update(&mut self, rows: &Rows<'_>) {
        let values = Self::values(rows);
        rows.for_each(|row, slot, weight| {
            let value: i128 = values[row].into();
            // Wraps only beyond 2^127, which `results` can not mistake for a sum in range
            // unless 2^63 rows come in between.
            self.sums[slot] = self.sums[slot].wrapping_add(value.wrapping_mul(i128::from(weight)));
            self.counts[slot] += weight;
        });
    }

    fn results(&self, slots: &[u32]) -> Result<ArrayRef, DataflowError> {
        let (min, max) = self.output.range();
        let in_range = |sum: i128| (min..=max).contains(&sum);
        Ok(match self.output {
            Output::Signed => {
                Arc::new(self.collect::<_, Int64Array>(slots, |sum, _| i64::try_from(sum).ok())?)
            }
            Output::Unsigned => {
                Arc::new(self.collect::<_, UInt64Array>(slots, |sum, _| u64::try_from(sum).ok())?)
            }
            Output::Mean => Arc::new(
                self.collect::<_, Float64Array>(slots, |sum, count| Some(mean(sum, count)))?,
            ),
            Output::Decimal { precision, scale, factor, mean } => {
                let result = |sum: i128, count: i64| {
                    let divisor = if mean { i128::from(count) } else { 1 };
                    in_range(sum).then(|| sum * factor / divisor)
                };
                let array: Decimal128Array = self.collect(slots, result)?;
                Arc::new(
                    array
                        .with_precision_and_scale(precision, scale)
                        .map_err(|_| self.out_of_range())?,
                )
            }
        })
    }

    fn clear(&mut self, slot: u32) {
        self.sums[slot as usize] = 0;
        self.counts[slot as usize] = 0;
    }

    fn write(&self, slot: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.sums[slot as usize].to_le_bytes());
        out.extend_from_slice(&self.counts[slot as usize].to_le_bytes());
    }

    fn read(&mut self, slot: u32, input: &mut Reader<'_>) -> Result<(), StateError> {
        let sum = input.i128()?;
        self.bound = self.bound.max(sum.unsigned_abs());
        self.sums[slot as usize] = sum;
        self.counts[slot as usize] = input.i64()?;
        Ok(())
    }
}

/// The double nearest to `sum / count`. Beyond 2^53 the whole part and the rest are rounded apart.
fn mean(sum: i128, count: i64) -> f64 {
    if sum.unsigned_abs() <= 1 << 53 {
        return sum as f64 / count as f64;
    }
    let divisor = i128::from(count);
    (sum / divisor) as f64 + (sum % divisor) as f64 / count as f64
}

/// Sums of floats.
#[derive(Debug)]
struct Float<T> {
    mean: bool,
    sums: Vec<Pair>,
    counts: Vec<i64>,
    argument: std::marker::PhantomData<fn(T)>,
}

/// A sum in two doubles, and how many of its values are no numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    high: f64,
    low: f64,
    /// Not-a-number, infinity, minus infinity.
    odd: [i64; 3],
}

impl Pair {
    #[inline]
    fn add(&mut self, value: f64, weight: i64) {
        if !value.is_finite() {
            let kind = if value.is_nan() { 0 } else { 1 + usize::from(value < 0.0) };
            self.odd[kind] += weight;
        } else if weight == 1 {
            self.add_finite(value);
        } else {
            let factor = weight as f64;
            let product = value * factor;
            self.add_finite(product);
            if product.is_finite() {
                self.add_finite(value.mul_add(factor, -product));
            }
        }
    }

    #[inline]
    fn add_finite(&mut self, value: f64) {
        let sum = self.high + value;
        if !sum.is_finite() {
            // Out of range for good. What was lost on the way there can not be told any more.
            (self.high, self.low) = (sum, 0.0);
            return;
        }
        let part = sum - self.high;
        let error = (self.high - (sum - part)) + (value - part);
        let low = self.low + error;
        self.high = sum + low;
        self.low = if self.high.is_finite() { low - (self.high - sum) } else { 0.0 };
    }

    fn sum(&self) -> f64 {
        let [nan, plus, minus] = self.odd;
        if nan > 0 || (plus > 0 && minus > 0) {
            f64::NAN
        } else if plus > 0 {
            f64::INFINITY
        } else if minus > 0 {
            f64::NEG_INFINITY
        } else {
            self.high + self.low
        }
    }
}

impl<T: ArrowPrimitiveType> Float<T> {
    fn new(mean: bool) -> Self {
        let argument = std::marker::PhantomData;
        Self { mean, sums: Vec::new(), counts: Vec::new(), argument }
    }
}

impl<T: ArrowPrimitiveType + std::fmt::Debug> Accumulator for Float<T>
where
    T::Native: Into<f64>,
{
    fn grow(&mut self, slots: usize) {
        self.sums.resize(slots, Pair::default());
        self.counts.resize(slots, 0);
    }

    fn update(&mut self, rows: &Rows<'_>) {
        let values = rows.argument.expect("a sum has an argument").as_primitive::<T>().values();
        rows.for_each(|row, slot, weight| {
            self.sums[slot].add(values[row].into(), weight);
            self.counts[slot] += weight;
            if self.counts[slot] == 0 {
                // Nothing is left, so nothing of the roundings may be.
                self.sums[slot] = Pair::default();
            }
        });
    }

    fn results(&self, slots: &[u32]) -> Result<ArrayRef, DataflowError> {
        let result = |&slot: &u32| {
            let (sum, count) = (self.sums[slot as usize].sum(), self.counts[slot as usize]);
            (count != 0).then(|| if self.mean { sum / count as f64 } else { sum })
        };
        Ok(Arc::new(slots.iter().map(result).collect::<Float64Array>()))
    }

    fn clear(&mut self, slot: u32) {
        self.sums[slot as usize] = Pair::default();
        self.counts[slot as usize] = 0;
    }

    fn write(&self, slot: u32, out: &mut Vec<u8>) {
        let pair = self.sums[slot as usize];
        out.extend_from_slice(&self.counts[slot as usize].to_le_bytes());
        out.extend_from_slice(&pair.high.to_le_bytes());
        out.extend_from_slice(&pair.low.to_le_bytes());
        let odd = pair.odd != [0; 3];
        out.push(u8::from(odd));
        if odd {
            out.extend(pair.odd.iter().flat_map(|count| count.to_le_bytes()));
        }
    }

    fn read(&mut self, slot: u32, input: &mut Reader<'_>) -> Result<(), StateError> {
        self.counts[slot as usize] = input.i64()?;
        let mut pair = Pair { high: input.f64()?, low: input.f64()?, odd: [0; 3] };
        if input.u8()? != 0 {
            pair.odd = [input.i64()?, input.i64()?, input.i64()?];
        }
        self.sums[slot as usize] = pair;
        Ok(())
    }
}
