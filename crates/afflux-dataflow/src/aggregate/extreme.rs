//! `min` and `max`.
//!
//! Values become keys whose order is that of the values: a 64-bit integer for everything that has
//! at most 64 bits (so that a batch is compared without looking at types), else arrow-row bytes.
//! Not-a-number is greater than all numbers, as in PostgreSQL.
//!
//! Where nothing is ever taken back, the best key is all that is kept. Otherwise all of them are,
//! with their multiplicities, in order; each key is a state entry of its own, so that an epoch
//! writes the keys that it changed and not the whole group.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use afflux_state::{Reader, StateError};
use afflux_types::OperatorId;
use arrow::{
    array::{Array, ArrayData, ArrayRef, make_array, new_null_array},
    buffer::{Buffer, NullBuffer},
    datatypes::DataType,
    row::{RowConverter, SortField},
};

use super::accumulator::{Accumulator, Rows, WriteEntry};
use crate::{DataflowError, error::internal};

/// The accumulator for an argument's type, if there is one.
pub(super) fn build(
    operator: OperatorId,
    max: bool,
    argument: &DataType,
    append_only: bool,
) -> Option<Box<dyn Accumulator>> {
    fn of<K: Keys + 'static>(keys: K, max: bool, append_only: bool) -> Box<dyn Accumulator> {
        if append_only {
            Box::new(Best { keys, max, found: Vec::new() })
        } else {
            Box::new(Multiset { keys, max, counts: Vec::new(), dirty: BTreeMap::new() })
        }
    }
    if let Some(order) = Order::of(argument) {
        return Some(of(Fixed { data_type: argument.clone(), order }, max, append_only));
    }
    let converter = RowConverter::new(vec![SortField::new(argument.clone())]).ok()?;
    Some(of(Bytes { operator, data_type: argument.clone(), converter }, max, append_only))
}

/// How values become keys and back.
trait Keys: fmt::Debug + Send {
    type Key: Ord + Clone + fmt::Debug + Send + Borrow<Self::Seen>;
    /// A key that is looked at and not kept: most are not.
    type Seen: Ord + ?Sized;

    /// Calls `f(slot, weight, key)` for the rows that count.
    fn each(&self, array: &ArrayRef, rows: &Rows<'_>, f: impl FnMut(usize, i64, &Self::Seen));
    fn keep(key: &Self::Seen) -> Self::Key;
    fn array<'a>(
        &self,
        keys: impl Iterator<Item = Option<&'a Self::Key>>,
    ) -> Result<ArrayRef, DataflowError>
    where
        Self::Key: 'a;
    fn write(key: &Self::Seen, out: &mut Vec<u8>);
    fn read(&self, bytes: &[u8]) -> Option<Self::Key>;
}

/// How the bits of a type order as a signed 64-bit integer.
#[derive(Debug, Clone, Copy)]
enum Order {
    Signed,
    Unsigned,
    /// 64 bits without a sign: the top bit is turned over.
    Unsigned64,
    /// All but the sign are turned over where it is set.
    Float,
}

impl Order {
    fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Duration(_) => Some(Self::Signed),
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => Some(Self::Unsigned),
            DataType::UInt64 => Some(Self::Unsigned64),
            DataType::Float32 | DataType::Float64 => Some(Self::Float),
            _ => None,
        }
    }
}

/// Keys of 64 bits.
#[derive(Debug)]
struct Fixed {
    data_type: DataType,
    order: Order,
}

impl Fixed {
    /// A value's bits, widened as its type says, as a key. Its own inverse for 64 bits.
    #[inline]
    fn turn(order: Order, bits: i64) -> i64 {
        match order {
            Order::Signed | Order::Unsigned => bits,
            Order::Unsigned64 => bits ^ i64::MIN,
            Order::Float => bits ^ (((bits >> 63) as u64) >> 1) as i64,
        }
    }

    fn keys(&self, array: &ArrayRef) -> Vec<i64> {
        let data = array.to_data();
        let (first, end) = (data.offset(), data.offset() + data.len());
        let bytes = &data.buffers()[0];
        let unsigned = matches!(self.order, Order::Unsigned);
        let turned = |bits: i64| Self::turn(self.order, bits);
        match self.data_type.primitive_width() {
            Some(1) if unsigned => bytes[first..end].iter().map(|v| i64::from(*v)).collect(),
            Some(1) => bytes[first..end].iter().map(|v| i64::from(*v as i8)).collect(),
            Some(2) if unsigned => {
                bytes.typed_data::<u16>()[first..end].iter().map(|v| i64::from(*v)).collect()
            }
            Some(2) => {
                bytes.typed_data::<i16>()[first..end].iter().map(|v| i64::from(*v)).collect()
            }
            Some(4) if matches!(self.order, Order::Float) => {
                let widen = |v: &f32| turned(f64::from(*v).to_bits() as i64);
                bytes.typed_data::<f32>()[first..end].iter().map(widen).collect()
            }
            Some(4) if unsigned => {
                bytes.typed_data::<u32>()[first..end].iter().map(|v| i64::from(*v)).collect()
            }
            Some(4) => {
                bytes.typed_data::<i32>()[first..end].iter().map(|v| i64::from(*v)).collect()
            }
            _ => bytes.typed_data::<i64>()[first..end].iter().map(|v| turned(*v)).collect(),
        }
    }
}

impl Keys for Fixed {
    type Key = i64;
    type Seen = i64;

    fn each(&self, array: &ArrayRef, rows: &Rows<'_>, mut f: impl FnMut(usize, i64, &i64)) {
        let keys = self.keys(array);
        rows.for_each(|row, slot, weight| f(slot, weight, &keys[row]));
    }

    fn keep(key: &i64) -> i64 {
        *key
    }

    fn array<'a>(
        &self,
        keys: impl Iterator<Item = Option<&'a i64>>,
    ) -> Result<ArrayRef, DataflowError> {
        let keys: Vec<Option<i64>> = keys.map(Option::<&i64>::copied).collect();
        let nulls: NullBuffer = keys.iter().map(Option::is_some).collect();
        let bits = keys.iter().map(|key| key.map_or(0, |key| Self::turn(self.order, key)));
        let values: Buffer = match (self.data_type.primitive_width(), self.order) {
            (Some(1), _) => bits.map(|bits| bits as u8).collect(),
            (Some(2), _) => bits.map(|bits| bits as u16).collect(),
            (Some(4), Order::Float) => {
                bits.map(|bits| f64::from_bits(bits as u64) as f32).collect()
            }
            (Some(4), _) => bits.map(|bits| bits as u32).collect(),
            _ => bits.collect(),
        };
        let data = ArrayData::builder(self.data_type.clone()).len(keys.len());
        let data = data.nulls((nulls.null_count() > 0).then_some(nulls)).add_buffer(values);
        Ok(make_array(data.build().expect("as many values as keys")))
    }

    fn write(key: &i64, out: &mut Vec<u8>) {
        out.extend_from_slice(&key.to_le_bytes());
    }

    fn read(&self, bytes: &[u8]) -> Option<i64> {
        bytes.try_into().ok().map(i64::from_le_bytes)
    }
}

/// Keys of arrow-row bytes.
#[derive(Debug)]
struct Bytes {
    operator: OperatorId,
    data_type: DataType,
    converter: RowConverter,
}

impl Keys for Bytes {
    type Key = Box<[u8]>;
    type Seen = [u8];

    fn each(&self, array: &ArrayRef, rows: &Rows<'_>, mut f: impl FnMut(usize, i64, &[u8])) {
        let keys = self.converter.convert_columns(std::slice::from_ref(array));
        let keys = keys.expect("the converter was made for the argument's type");
        rows.for_each(|row, slot, weight| f(slot, weight, keys.row(row).data()));
    }

    fn keep(key: &[u8]) -> Box<[u8]> {
        key.into()
    }

    fn array<'a>(
        &self,
        keys: impl Iterator<Item = Option<&'a Box<[u8]>>>,
    ) -> Result<ArrayRef, DataflowError> {
        let null = new_null_array(&self.data_type, 1);
        let fault = internal(self.operator);
        let null = self.converter.convert_columns(&[null]).map_err(&fault)?;
        let parser = self.converter.parser();
        let rows = keys.map(|key| key.map_or_else(|| null.row(0), |key| parser.parse(key)));
        let mut columns = self.converter.convert_rows(rows).map_err(fault)?;
        Ok(columns.swap_remove(0))
    }

    fn write(key: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(key);
    }

    fn read(&self, bytes: &[u8]) -> Option<Box<[u8]>> {
        Some(bytes.into())
    }
}

/// The best key a group.
#[derive(Debug)]
struct Best<K: Keys> {
    keys: K,
    max: bool,
    found: Vec<Option<K::Key>>,
}

impl<K: Keys> Accumulator for Best<K> {
    fn grow(&mut self, slots: usize) {
        self.found.resize(slots, None);
    }

    fn update(&mut self, rows: &Rows<'_>) {
        let (found, max) = (&mut self.found, self.max);
        self.keys.each(rows.argument.expect("it has an argument"), rows, |slot, _, key| {
            let no_better = |best: &K::Key| match key.cmp(best.borrow()) {
                Ordering::Less => max,
                Ordering::Equal => true,
                Ordering::Greater => !max,
            };
            if !found[slot].as_ref().is_some_and(no_better) {
                found[slot] = Some(K::keep(key));
            }
        });
    }

    fn results(&self, slots: &[u32]) -> Result<ArrayRef, DataflowError> {
        self.keys.array(slots.iter().map(|&slot| self.found[slot as usize].as_ref()))
    }

    fn clear(&mut self, slot: u32) {
        self.found[slot as usize] = None;
    }

    fn write(&self, slot: u32, out: &mut Vec<u8>) {
        let Some(key) = &self.found[slot as usize] else {
            out.extend_from_slice(&u32::MAX.to_le_bytes());
            return;
        };
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        K::write(key.borrow(), out);
        let length = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn read(&mut self, slot: u32, input: &mut Reader<'_>) -> Result<(), StateError> {
        let length = input.u32()?;
        self.found[slot as usize] = if length == u32::MAX {
            None
        } else {
            let key = self.keys.read(input.bytes(length as usize)?);
            Some(key.ok_or_else(|| input.damaged("a value has another width than its type"))?)
        };
        Ok(())
    }
}

/// All keys a group, with how often each is there.
#[derive(Debug)]
struct Multiset<K: Keys> {
    keys: K,
    max: bool,
    /// Without zeros.
    counts: Vec<BTreeMap<K::Key, i64>>,
    /// What changed since it was last written.
    dirty: BTreeMap<u32, BTreeSet<K::Key>>,
}

impl<K: Keys> Accumulator for Multiset<K> {
    fn grow(&mut self, slots: usize) {
        self.counts.resize_with(slots, BTreeMap::new);
    }

    fn update(&mut self, rows: &Rows<'_>) {
        let (counts, dirty) = (&mut self.counts, &mut self.dirty);
        self.keys.each(rows.argument.expect("it has an argument"), rows, |slot, weight, key| {
            match counts[slot].get_mut(key) {
                Some(count) if *count + weight == 0 => drop(counts[slot].remove(key)),
                Some(count) => *count += weight,
                None if weight == 0 => {}
                None => drop(counts[slot].insert(K::keep(key), weight)),
            }
            let dirty = dirty.entry(slot as u32).or_default();
            if !dirty.contains(key) {
                dirty.insert(K::keep(key));
            }
        });
    }

    fn results(&self, slots: &[u32]) -> Result<ArrayRef, DataflowError> {
        self.keys.array(slots.iter().map(|&slot| {
            let mut there = self.counts[slot as usize].iter().filter(|(_, count)| **count > 0);
            let best = if self.max { there.next_back() } else { there.next() };
            best.map(|(key, _)| key)
        }))
    }

    fn clear(&mut self, slot: u32) {
        self.counts[slot as usize].clear();
        self.dirty.remove(&slot);
    }

    fn write(&self, _: u32, _: &mut Vec<u8>) {}

    fn read(&mut self, _: u32, _: &mut Reader<'_>) -> Result<(), StateError> {
        Ok(())
    }

    fn write_entries(&mut self, entry: &mut WriteEntry<'_>) {
        let mut name = Vec::new();
        for (slot, keys) in std::mem::take(&mut self.dirty) {
            for key in &keys {
                name.clear();
                K::write(key.borrow(), &mut name);
                entry(slot, &name, self.counts[slot as usize].get(key.borrow()).copied());
            }
        }
    }

    fn entries(&self, slot: u32, entry: &mut dyn FnMut(&[u8], i64)) {
        let mut name = Vec::new();
        for (key, count) in &self.counts[slot as usize] {
            name.clear();
            K::write(key.borrow(), &mut name);
            entry(&name, *count);
        }
    }

    fn read_entry(&mut self, slot: u32, name: &[u8], value: Option<i64>) -> bool {
        let Some(key) = self.keys.read(name) else {
            return false;
        };
        let counts = &mut self.counts[slot as usize];
        match value {
            Some(count) => drop(counts.insert(key, count)),
            None => drop(counts.remove(key.borrow())),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Float32Array, Float64Array, Int8Array, Int64Array, UInt16Array, UInt64Array,
    };

    use super::*;

    #[test]
    fn keys_order_and_come_back_as_values_do() {
        let check = |ascending: ArrayRef| {
            let data_type = ascending.data_type().clone();
            let fixed = Fixed { order: Order::of(&data_type).unwrap(), data_type };
            let keys = fixed.keys(&ascending);
            assert!(keys.is_sorted(), "{keys:?} of {ascending:?}");
            let back = fixed.array(keys.iter().map(Some)).unwrap();
            assert_eq!(&back, &ascending);
            assert_eq!(fixed.keys(&ascending.slice(1, 1)), keys[1..2]);
        };
        let floats = [f64::NEG_INFINITY, -1e300, -0.5, -0.0, 0.0, 1e-300, 7.0, f64::INFINITY];
        check(Arc::new(Float64Array::from(floats.to_vec())));
        check(Arc::new(Float32Array::from(vec![-3.5, -0.0, 0.0, 1e30])));
        check(Arc::new(Int8Array::from(vec![i8::MIN, -1, 0, i8::MAX])));
        check(Arc::new(Int64Array::from(vec![i64::MIN, -1, 0, i64::MAX])));
        check(Arc::new(UInt16Array::from(vec![0, 1, u16::MAX])));
        check(Arc::new(UInt64Array::from(vec![0, 1 << 63, u64::MAX])));
    }
}
