//! The GPUs of a CUDA build: finds each once, checks the compute capability of the kernels, and
//! prepares it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result, sys};

use super::capability;
use crate::runtime::LoadError;

/// The devices that were asked for, by number. Tensors can only be combined on the same one.
static FOUND: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());

/// GPU number `number` of those that the driver shows; none if it shows none at all.
///
/// # Errors
/// [`LoadError::Device`] for a driver or a GPU that fails, a number that is too high, and a GPU
/// that the kernels were not compiled for.
pub(super) fn device(number: usize) -> Result<Option<Device>, LoadError> {
    let failed = |error: candle_core::Error| LoadError::Device(error.to_string());
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = found.get(&number) {
        return Ok(Some(device.clone()));
    }
    let count = usize::try_from(count().map_err(driver)?).unwrap_or_default();
    if count == 0 {
        return Ok(None);
    }
    if number >= count {
        return Err(LoadError::Device(format!("cuda:{number}: the driver shows {count} GPUs, numbered from 0")));
    }
    let device = Device::new_cuda(number).map_err(failed)?;
    prepare(device.as_cuda_device().map_err(failed)?)?;
    found.insert(number, device.clone());
    Ok(Some(device))
}

fn count() -> Result<i32, DriverError> {
    match CudaContext::device_count() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        counted => counted,
    }
}

fn prepare(device: &CudaDevice) -> Result<(), LoadError> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let found = context.compute_capability().map_err(driver)?;
    capability::check(option_env!("PODIUM_COMPUTE_CAPABILITY"), found).map_err(LoadError::Device)?;
    // SAFETY: events order streams among each other, and there is only one: candle's device has the
    // default stream, and the layers add none. Kernels that are compiled for a thread's own default
    // stream wait for the default stream, and it for them.
    unsafe { device.disable_event_tracking() };
    if context.has_async_alloc() {
        keep_memory(context).map_err(driver)?;
    }
    Ok(())
}

/// Keeps freed memory for the next pass; the driver would release it at each synchronisation. The
/// memory of unloaded models stays with the process too.
fn keep_memory(context: &CudaContext) -> Result<(), DriverError> {
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device comes from the driver, its current pool lives as long as it, and the
    // attribute's value is a u64.
    unsafe {
        let pool = result::device::get_mem_pool(context.cu_device())?;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
    }
}

fn driver(error: DriverError) -> LoadError {
    LoadError::Device(error.to_string())
}
