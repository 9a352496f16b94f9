//! What the bytes of a payload mean: element type, shape and strides, and the rules for them.
//!
//! Producers and consumers check with the same function, so what one side can write the other side
//! takes.

use crate::layout::MAX_DIMS;
use crate::sbe::Reserved;
use crate::table::{body, wire_enum};

wire_enum! {
    /// Type of one element. The schema's UNKNOWN is `Unknown(0)`; 12 is not assigned.
    // spec: W-15.8-1
    pub enum Dtype: i16 {
        /// 8-bit unsigned.
        Uint8 = 1,
        /// 8-bit signed.
        Int8 = 2,
        /// 16-bit unsigned.
        Uint16 = 3,
        /// 16-bit signed.
        Int16 = 4,
        /// 32-bit unsigned.
        Uint32 = 5,
        /// 32-bit signed.
        Int32 = 6,
        /// 64-bit unsigned.
        Uint64 = 7,
        /// 64-bit signed.
        Int64 = 8,
        /// 32-bit floating point.
        Float32 = 9,
        /// 64-bit floating point.
        Float64 = 10,
        /// One byte per truth value.
        Boolean = 11,
        /// Opaque bytes.
        Bytes = 13,
        /// Bits; how they are packed is between producer and consumer.
        Bit = 14,
    }
}

impl Dtype {
    /// Bytes of one element, `None` for a type that is not known. BIT counts as 1, as peers do.
    #[must_use]
    pub const fn size_bytes(self) -> Option<u32> {
        match self {
            Self::Uint8 | Self::Int8 | Self::Boolean | Self::Bytes | Self::Bit => Some(1),
            Self::Uint16 | Self::Int16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Float32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Float64 => Some(8),
            Self::Unknown(_) => None,
        }
    }
}

wire_enum! {
    /// Which dimension lies closest together. The schema's UNKNOWN is `Unknown(0)`.
    // spec: W-15.8-1
    pub enum MajorOrder: i16 {
        /// The last one.
        Row = 1,
        /// The first one.
        Column = 2,
    }
}

wire_enum! {
    /// In what steps FrameProgress counts.
    pub enum ProgressUnit: u8 {
        /// Bytes only.
        None = 0,
        /// Steps of dimension 0.
        Rows = 1,
        /// Steps of dimension 1.
        Columns = 2,
    }
}

body! {
    /// The block of the embedded message, template 52. `dims` stands 4-unaligned in a slot.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct TensorBlock, block 184 {
        /// See [`TensorHeader`].
        @0 dtype: Dtype,
        /// See [`TensorHeader`].
        @2 major_order: MajorOrder,
        /// See [`TensorHeader`].
        @4 ndims: u8,
        /// Ignored.
        @5 pad_align: Reserved<1>,
        /// See [`TensorHeader`].
        @6 progress_unit: ProgressUnit,
        /// See [`TensorHeader`].
        @7 progress_stride_bytes: u32,
        /// See [`TensorHeader`].
        @11 dims: [i32; 8],
        /// See [`TensorHeader`].
        @43 strides: [i32; 8],
        /// Ignored.
        @75 pad: Reserved<109>,
    }
}

/// The embedded TensorHeader as it stands in a slot. Nothing in it has been checked;
/// [`TensorHeader::validate`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub struct TensorHeader {
    /// Element type.
    pub dtype: Dtype,
    /// Which dimension lies closest together.
    pub major_order: MajorOrder,
    /// How many of `dims` and `strides` count, 1 to 8.
    pub ndims: u8,
    /// In what steps FrameProgress counts.
    pub progress_unit: ProgressUnit,
    /// Bytes of one step; 0 with [`ProgressUnit::None`].
    pub progress_stride_bytes: u32,
    /// Elements per dimension; 0 beyond `ndims`.
    pub dims: [i32; MAX_DIMS],
    /// Bytes from one element of the dimension to the next; 0: contiguous. 0 beyond `ndims`.
    pub strides: [i32; MAX_DIMS],
}

/// Why a TensorHeader does not describe a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorReject {
    /// An element type that is not known, which is never guessed.
    // spec: W-15.8-2
    #[error("element type {raw} is not known")]
    Dtype {
        /// The number on the wire.
        raw: i16,
    },
    /// A major order that is not known.
    // spec: W-15.8-2
    #[error("major order {raw} is not known")]
    MajorOrder {
        /// The number on the wire.
        raw: i16,
    },
    /// No dimension, or more than there is place for.
    // spec: W-8.2-7
    #[error("{found} dimensions, 1 to 8 are possible")]
    Ndims {
        /// How many were given.
        found: usize,
    },
    /// A dimension below 0, or above `i32::MAX` on the producer's side.
    #[error("dimension {axis} is outside 0..=2147483647")]
    Dim {
        /// Which one, from 0.
        axis: usize,
    },
    /// A stride below 0, or above `i32::MAX` on the producer's side.
    // spec: W-8.2-10
    #[error("the stride of dimension {axis} is outside 0..=2147483647")]
    Stride {
        /// Which one, from 0.
        axis: usize,
    },
    /// As many strides as dimensions must be given.
    #[error("{found} strides were given for {expected} dimensions")]
    StrideCount {
        /// Number of dimensions.
        expected: usize,
        /// Number of strides.
        found: usize,
    },
    /// Elements would overlap, or the order of the strides contradicts the major order.
    // spec: W-8.2-10
    #[error("the stride of dimension {axis} is {found} bytes, at least {least} are needed")]
    Overlap {
        /// Which one, from 0.
        axis: usize,
        /// The stride given.
        found: u32,
        /// The least that keeps elements apart in this major order.
        least: u64,
    },
    /// The shape needs more bytes than a payload can have.
    #[error("the stride of dimension {axis} passes 4294967295 bytes")]
    StrideTooLong {
        /// Which one, from 0.
        axis: usize,
    },
    /// The shape needs more bytes than the payload has.
    #[error("the shape spans {extent} bytes, the payload has {values_len_bytes}")]
    Extent {
        /// Bytes from the first to the last element, both included.
        extent: u64,
        /// Bytes of the payload.
        values_len_bytes: u32,
    },
    /// A progress unit that is not known.
    // spec: W-15.8-2
    #[error("progress unit {raw} is not known")]
    ProgressUnit {
        /// The number on the wire.
        raw: u8,
    },
    /// The progress stride is 0, or not the stride of the dimension that the unit names, or there is
    /// no such dimension.
    // spec: W-8.2-11, W-10.2.2-3
    #[error("the progress stride is {found} bytes, the layout says {expected:?}")]
    ProgressStride {
        /// Stride of the dimension that the unit names, if there is one.
        expected: Option<u32>,
        /// What the header says.
        found: u32,
    },
}

impl TensorReject {
    /// Bounded label for metrics and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Dtype { .. } => "dtype",
            Self::MajorOrder { .. } => "major_order",
            Self::Ndims { .. } => "ndims",
            Self::Dim { .. } => "dim",
            Self::Stride { .. } => "stride",
            Self::StrideCount { .. } => "stride_count",
            Self::Overlap { .. } => "stride_overlap",
            Self::StrideTooLong { .. } => "stride_too_long",
            Self::Extent { .. } => "extent",
            Self::ProgressUnit { .. } => "progress_unit",
            Self::ProgressStride { .. } => "progress_stride",
        }
    }
}

/// A shape that was checked: every stride is there, no two elements overlap, and the payload holds
/// all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    dtype: Dtype,
    major_order: MajorOrder,
    ndims: usize,
    dims: [u32; MAX_DIMS],
    strides: [u32; MAX_DIMS],
    extent_bytes: u64,
    progress_unit: ProgressUnit,
}

impl Tensor {
    /// Element type, always a known one.
    #[must_use]
    pub const fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Which dimension lies closest together, always known.
    #[must_use]
    pub const fn major_order(&self) -> MajorOrder {
        self.major_order
    }

    /// Elements per dimension; 1 to 8 numbers.
    #[must_use]
    pub fn shape(&self) -> &[u32] {
        self.dims.get(..self.ndims).unwrap_or_default()
    }

    /// Bytes from one element to the next, per dimension; as many numbers as the shape has.
    #[must_use]
    pub fn strides(&self) -> &[u32] {
        self.strides.get(..self.ndims).unwrap_or_default()
    }

    /// Bytes from the first to the last element, both included; 0 without elements.
    #[must_use]
    pub const fn extent_bytes(&self) -> u64 {
        self.extent_bytes
    }

    /// In what steps FrameProgress counts.
    #[must_use]
    pub const fn progress_unit(&self) -> ProgressUnit {
        self.progress_unit
    }

    /// Bytes of one step of `unit`: rows step along dimension 0, columns along dimension 1. `None`
    /// where there is no such dimension.
    fn progress_stride(&self, unit: ProgressUnit) -> Result<Option<u32>, TensorReject> {
        match unit {
            ProgressUnit::None => Ok(None),
            ProgressUnit::Rows => Ok(self.strides().first().copied()),
            ProgressUnit::Columns => Ok(self.strides().get(1).copied()),
            ProgressUnit::Unknown(raw) => Err(TensorReject::ProgressUnit { raw }),
        }
    }

    /// Whether the elements lie one after the other without gaps. A prefix of such a payload is a
    /// prefix of its elements.
    // spec: W-10.2.2-4
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        let elements = self.shape().iter().fold(1, |product: u64, &dim| {
            product.saturating_mul(u64::from(dim))
        });
        let size = self.dtype.size_bytes().map_or(0, u64::from);
        elements.saturating_mul(size) == self.extent_bytes
    }
}

impl TensorHeader {
    /// A tensor whose elements lie one after the other.
    ///
    /// # Errors
    /// [`TensorReject::Ndims`] or [`TensorReject::Dim`] if the shape cannot be written down;
    /// [`Self::validate`] checks the rest.
    // spec: W-8.2-9
    pub fn contiguous(
        dtype: Dtype,
        major_order: MajorOrder,
        shape: &[u32],
    ) -> Result<Self, TensorReject> {
        let found = shape.len();
        let ndims = u8::try_from(found).map_err(|_| TensorReject::Ndims { found })?;
        if found == 0 || found > MAX_DIMS {
            return Err(TensorReject::Ndims { found });
        }
        let mut dims = [0; MAX_DIMS];
        for (axis, (to, &from)) in dims.iter_mut().zip(shape).enumerate() {
            *to = i32::try_from(from).map_err(|_| TensorReject::Dim { axis })?;
        }
        Ok(Self {
            dtype,
            major_order,
            ndims,
            progress_unit: ProgressUnit::None,
            progress_stride_bytes: 0,
            dims,
            strides: [0; MAX_DIMS],
        })
    }

    /// The same tensor with these strides in bytes, one per dimension; 0: contiguous.
    ///
    /// # Errors
    /// [`TensorReject::StrideCount`] or [`TensorReject::Stride`] if they cannot be written down.
    pub fn with_strides(self, strides: &[u32]) -> Result<Self, TensorReject> {
        let expected = usize::from(self.ndims);
        let found = strides.len();
        if found != expected {
            return Err(TensorReject::StrideCount { expected, found });
        }
        let mut written = [0; MAX_DIMS];
        for (axis, (to, &from)) in written.iter_mut().zip(strides).enumerate() {
            *to = i32::try_from(from).map_err(|_| TensorReject::Stride { axis })?;
        }
        Ok(Self {
            strides: written,
            ..self
        })
    }

    /// The same tensor, with FrameProgress in `unit`. The progress stride follows from the layout.
    ///
    /// # Errors
    /// [`TensorReject`] if the layout is not valid or has no such dimension.
    // spec: W-8.2-11
    pub fn with_progress(self, unit: ProgressUnit) -> Result<Self, TensorReject> {
        let stride = match unit {
            ProgressUnit::None => None,
            ProgressUnit::Rows | ProgressUnit::Columns | ProgressUnit::Unknown(_) => {
                let expected = self.resolve()?.progress_stride(unit)?;
                let found = 0;
                Some(expected.ok_or(TensorReject::ProgressStride { expected, found })?)
            }
        };
        Ok(Self {
            progress_unit: unit,
            progress_stride_bytes: stride.unwrap_or(0),
            ..self
        })
    }

    /// Checks the header against all rules for a payload of `values_len_bytes`.
    ///
    /// An empty payload describes no elements, and BIT elements may be packed; for these two the
    /// shape may span more bytes than the payload has.
    ///
    /// # Errors
    /// [`TensorReject`], the first rule that is broken.
    // spec: W-8.2-7, W-8.2-9, W-8.2-10, W-8.2-11, W-8.2-12, W-15.8-2
    #[inline]
    pub fn validate(&self, values_len_bytes: u32) -> Result<Tensor, TensorReject> {
        let tensor = self.resolve()?;
        let extent = tensor.extent_bytes;
        let may_exceed = values_len_bytes == 0 || self.dtype == Dtype::Bit;
        if extent > u64::from(values_len_bytes) && !may_exceed {
            return Err(TensorReject::Extent {
                extent,
                values_len_bytes,
            });
        }
        if self.progress_unit != ProgressUnit::None {
            let expected = tensor.progress_stride(self.progress_unit)?;
            let found = self.progress_stride_bytes;
            if found == 0 || Some(found) != expected {
                return Err(TensorReject::ProgressStride { expected, found });
            }
        }
        Ok(tensor)
    }

    #[inline]
    fn element_size(&self) -> Result<u32, TensorReject> {
        let raw = self.dtype.raw();
        self.dtype.size_bytes().ok_or(TensorReject::Dtype { raw })
    }

    /// The tensor with every stride filled in; the payload's length and the progress fields are not
    /// looked at.
    #[inline]
    fn resolve(&self) -> Result<Tensor, TensorReject> {
        let size = self.element_size()?;
        if let MajorOrder::Unknown(raw) = self.major_order {
            return Err(TensorReject::MajorOrder { raw });
        }
        let ndims = usize::from(self.ndims);
        if ndims == 0 || ndims > MAX_DIMS {
            return Err(TensorReject::Ndims { found: ndims });
        }
        let dims = unsigned(first(ndims, &self.dims));
        let strides = unsigned(first(ndims, &self.strides));
        let mut tensor = Tensor {
            dtype: self.dtype,
            major_order: self.major_order,
            ndims,
            dims: dims.map_err(|axis| TensorReject::Dim { axis })?,
            strides: strides.map_err(|axis| TensorReject::Stride { axis })?,
            extent_bytes: 0,
            progress_unit: self.progress_unit,
        };
        let mut walk = Walk::new(size);
        if self.major_order == MajorOrder::Row {
            for axis in (0..ndims).rev() {
                walk.outwards(axis, &mut tensor)?;
            }
        } else {
            for axis in 0..ndims {
                walk.outwards(axis, &mut tensor)?;
            }
        }
        tensor.extent_bytes = walk.extent();
        Ok(tensor)
    }
}

/// A walk over the dimensions from the innermost outwards.
struct Walk {
    /// Least stride of the next dimension that keeps its elements apart.
    least: u64,
    /// Bytes from the first to the last element so far, both included.
    extent: u64,
    has_elements: bool,
}

impl Walk {
    fn new(element_size: u32) -> Self {
        Self {
            least: u64::from(element_size),
            extent: u64::from(element_size),
            has_elements: true,
        }
    }

    /// Checks the stride of the next dimension, or fills it in if it is 0.
    #[inline]
    fn outwards(&mut self, axis: usize, tensor: &mut Tensor) -> Result<(), TensorReject> {
        let (Some(&dim), Some(stride)) = (tensor.dims.get(axis), tensor.strides.get_mut(axis))
        else {
            return Ok(());
        };
        if *stride == 0 {
            *stride =
                u32::try_from(self.least).map_err(|_| TensorReject::StrideTooLong { axis })?;
        } else if u64::from(*stride) < self.least {
            return Err(TensorReject::Overlap {
                axis,
                found: *stride,
                least: self.least,
            });
        }
        let stride = u64::from(*stride);
        self.least = stride.saturating_mul(u64::from(dim.max(1)));
        let steps = u64::from(dim.saturating_sub(1));
        self.extent = self.extent.saturating_add(steps.saturating_mul(stride));
        self.has_elements &= dim != 0;
        Ok(())
    }

    const fn extent(&self) -> u64 {
        if self.has_elements { self.extent } else { 0 }
    }
}

/// The first `count` values, and zeros. Written so that the compiler needs no loop.
#[inline]
pub(crate) fn first(count: usize, values: &[i32; MAX_DIMS]) -> [i32; MAX_DIMS] {
    let mut first = *values;
    for (axis, value) in first.iter_mut().enumerate() {
        if axis >= count {
            *value = 0;
        }
    }
    first
}

/// The values without sign, or the place of the first negative one.
#[inline]
fn unsigned(values: [i32; MAX_DIMS]) -> Result<[u32; MAX_DIMS], usize> {
    let signs = values.iter().fold(0, |signs, value| signs | value);
    if signs < 0 {
        let negative = values.iter().position(|&value| value < 0);
        return Err(negative.unwrap_or_default());
    }
    Ok(values.map(i32::cast_unsigned))
}
