//! What makes values of a key equal, where their bytes are compared.
//!
//! Equal floats may differ in their bits: `-0.0` is `0.0`, and in a key, as in PostgreSQL, every
//! NaN is the same. Keys get one of them before they become bytes.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, ArrowPrimitiveType, AsArray},
    datatypes::{DataType, Float32Type, Float64Type},
};

/// A column as keys have it.
pub(crate) fn canonical(column: &ArrayRef) -> ArrayRef {
    fn floats<T: ArrowPrimitiveType>(column: &ArrayRef, f: fn(T::Native) -> T::Native) -> ArrayRef {
        Arc::new(column.as_primitive::<T>().unary::<_, T>(f))
    }
    match column.data_type() {
        // -0.0 + 0.0 is 0.0.
        DataType::Float32 => {
            floats::<Float32Type>(
                column,
                |value| if value.is_nan() { f32::NAN } else { value + 0.0 },
            )
        }
        DataType::Float64 => {
            floats::<Float64Type>(
                column,
                |value| if value.is_nan() { f64::NAN } else { value + 0.0 },
            )
        }
        _ => Arc::clone(column),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Float64Array};

    use super::*;

    #[test]
    fn equal_floats_become_the_same_bits() {
        let column: ArrayRef =
            Arc::new(Float64Array::from(vec![Some(-0.0), Some(-f64::NAN), None, Some(-1.5)]));
        let bits = |column: &ArrayRef| -> Vec<Option<u64>> {
            column.as_primitive::<Float64Type>().iter().map(|v| v.map(f64::to_bits)).collect()
        };
        let expected = [Some(0.0), Some(f64::NAN), None, Some(-1.5)];
        assert_eq!(bits(&canonical(&column)), expected.map(|v| v.map(f64::to_bits)));
        let column: ArrayRef = Arc::new(Float32Array::from(vec![-0.0, -f32::NAN, 2.5]));
        let column = canonical(&column);
        let bits = column.as_primitive::<Float32Type>().values().iter().map(|v| v.to_bits());
        assert_eq!(bits.collect::<Vec<_>>(), [0.0, f32::NAN, 2.5].map(f32::to_bits));
    }
}
