//! Entries of a state table, to and from bytes.

use afflux_record::changelog::TableDelta;
use afflux_types::TableId;
use arrow::array::builder::BinaryBuilder;

use crate::StateError;

/// Collects entries of one table.
#[derive(Debug)]
pub struct DeltaBuilder {
    table: TableId,
    keys: BinaryBuilder,
    values: BinaryBuilder,
    scratch: Vec<u8>,
    entries: usize,
}

impl DeltaBuilder {
    /// No entries yet.
    pub fn new(table: TableId) -> Self {
        Self {
            table,
            keys: BinaryBuilder::new(),
            values: BinaryBuilder::new(),
            scratch: Vec::new(),
            entries: 0,
        }
    }

    /// A key gets the value that `write` appends.
    pub fn put(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        self.scratch.clear();
        write(&mut self.scratch);
        self.keys.append_value(key);
        self.values.append_value(&self.scratch);
        self.entries += 1;
    }

    /// A key is deleted.
    pub fn delete(&mut self, key: &[u8]) {
        self.keys.append_value(key);
        self.values.append_null();
        self.entries += 1;
    }

    /// The entries, if there are any.
    pub fn finish(mut self) -> Option<TableDelta> {
        (self.entries > 0).then(|| TableDelta {
            table: self.table,
            keys: self.keys.finish(),
            values: self.values.finish(),
        })
    }
}

/// Reads one entry from its front. Integers are little endian.
#[derive(Debug)]
pub struct Reader<'a> {
    table: TableId,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The bytes of a table's key or value.
    pub fn new(table: TableId, bytes: &'a [u8]) -> Self {
        Self { table, bytes }
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], StateError> {
        let (head, tail) =
            self.bytes.split_at_checked(length).ok_or_else(|| self.damaged("it is too short"))?;
        self.bytes = tail;
        Ok(head)
    }

    /// The next bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        Ok(self.bytes(N)?.try_into().expect("as many bytes as were taken"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, StateError> {
        Ok(self.array::<1>()?[0])
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, StateError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn i64(&mut self) -> Result<i64, StateError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Sixteen bytes.
    pub fn i128(&mut self) -> Result<i128, StateError> {
        Ok(i128::from_le_bytes(self.array()?))
    }

    /// A double, by its bits.
    pub fn f64(&mut self) -> Result<f64, StateError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), StateError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.damaged("it is too long")) }
    }

    /// An error of this entry.
    pub fn damaged(&self, reason: impl Into<String>) -> StateError {
        StateError::Damaged { table: self.table, reason: reason.into() }
    }
}
