//! What a producer writes: element type, shape, strides, and how many bytes that takes.

use tensorpool_wire::{Dtype, MajorOrder, ProgressUnit, TensorHeader, TensorReject};

/// A checked description of one tensor. Small and `Copy`: make it once and use it for every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    header: TensorHeader,
    len_bytes: u32,
}

impl TensorSpec {
    /// A tensor in row-major order whose elements lie one after the other.
    ///
    /// # Errors
    /// [`TensorReject`] if there are no or more than 8 dimensions, a dimension is above `i32::MAX`,
    /// or the tensor would have more than `u32::MAX` bytes.
    // spec: W-8.2-7 W-8.2-9 W-8.2-10
    pub fn new(dtype: Dtype, shape: &[u32]) -> Result<Self, TensorReject> {
        Self::from_header(TensorHeader::contiguous(dtype, MajorOrder::Row, shape)?)
    }

    /// The same in column-major order.
    ///
    /// # Errors
    /// As for [`TensorSpec::new`].
    pub fn column_major(dtype: Dtype, shape: &[u32]) -> Result<Self, TensorReject> {
        Self::from_header(TensorHeader::contiguous(dtype, MajorOrder::Column, shape)?)
    }

    /// `len` plain bytes.
    ///
    /// # Errors
    /// [`TensorReject`] if `len` is above `i32::MAX`.
    pub fn bytes(len: usize) -> Result<Self, TensorReject> {
        let len = u32::try_from(len).map_err(|_| TensorReject::Dim { axis: 0 })?;
        Self::new(Dtype::Uint8, &[len])
    }

    /// The same tensor with these strides, in bytes, one per dimension; 0: contiguous.
    ///
    /// # Errors
    /// [`TensorReject`] if elements would overlap or the strides contradict the major order.
    // spec: W-8.2-10
    pub fn with_strides(self, strides: &[u32]) -> Result<Self, TensorReject> {
        Self::from_header(self.header.with_strides(strides)?)
    }

    /// The same tensor, whose progress is counted in rows or columns.
    ///
    /// # Errors
    /// [`TensorReject`] if there is no such dimension.
    // spec: W-8.2-11
    pub fn with_progress(self, unit: ProgressUnit) -> Result<Self, TensorReject> {
        Self::from_header(self.header.with_progress(unit)?)
    }

    /// Bytes of the payload, from the first to the last element.
    #[must_use]
    pub const fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    /// The header as it stands in a slot.
    #[must_use]
    pub const fn header(&self) -> &TensorHeader {
        &self.header
    }

    fn from_header(header: TensorHeader) -> Result<Self, TensorReject> {
        let extent = header.validate(u32::MAX)?.extent_bytes();
        let len_bytes = u32::try_from(extent).map_err(|_| TensorReject::Extent {
            extent,
            values_len_bytes: u32::MAX,
        })?;
        Ok(Self { header, len_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_follows_from_shape_and_type() {
        let image = TensorSpec::new(Dtype::Uint8, &[480, 640, 3]).unwrap();
        assert_eq!(image.len_bytes(), 480 * 640 * 3);
        assert_eq!(
            TensorSpec::new(Dtype::Float64, &[0, 4])
                .unwrap()
                .len_bytes(),
            0
        );
        assert_eq!(TensorSpec::bytes(7).unwrap().len_bytes(), 7);
    }

    // spec: W-8.2-10
    #[test]
    fn strides_lengthen_the_payload_up_to_the_last_element_only() {
        let padded = TensorSpec::new(Dtype::Uint8, &[2, 3])
            .unwrap()
            .with_strides(&[64, 1]);
        assert_eq!(padded.unwrap().len_bytes(), 64 + 3);
    }

    // spec: W-8.2-7
    #[test]
    fn impossible_shapes_are_refused_when_they_are_made() {
        assert!(TensorSpec::new(Dtype::Uint8, &[]).is_err());
        assert!(TensorSpec::new(Dtype::Uint8, &[1; 9]).is_err());
        assert!(TensorSpec::new(Dtype::Unknown(12), &[1]).is_err());
        assert!(TensorSpec::new(Dtype::Float64, &[70_000, 70_000]).is_err());
        let overlapping = TensorSpec::new(Dtype::Uint16, &[4, 4])
            .unwrap()
            .with_strides(&[4, 2]);
        assert!(overlapping.is_err());
    }
}
