// Adds up the times of all kernels of a process, with CUPTI. The CUDA driver loads this library into the process:
//
//   gcc -O2 -shared -fPIC -I $CUDA_HOME/include tools/gpu/kernel_times.c -o kernel_times.so -l:libcupti.so.13
//   CUDA_INJECTION64_PATH=$PWD/kernel_times.so PODIUM_KERNEL_TIMES=times.json podium passes ...
//
// At its end the process writes {"kernels": [{"name", "count", "ns"}]}.

#include <cupti.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_KERNELS 4096
#define BUFFER_BYTES (8 << 20)

static struct {
  const char *name;
  unsigned long count, ns;
} kernels[MOST_KERNELS];
static int known;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void add(const char *name, unsigned long ns) {
  int place = 0;
  while (place < known && strcmp(kernels[place].name, name)) place++;
  if (place == known) {
    if (known == MOST_KERNELS) return;
    kernels[known++].name = strdup(name);
  }
  kernels[place].count++;
  kernels[place].ns += ns;
}

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *size, size_t *records) {
  *size = BUFFER_BYTES;
  *records = 0;
  if (posix_memalign((void **)buffer, 8, BUFFER_BYTES)) *buffer = NULL;
}

static void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
  CUpti_Activity *record = NULL;
  (void)context, (void)stream, (void)size;
  pthread_mutex_lock(&lock);
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS)
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      CUpti_ActivityKernel10 *kernel = (CUpti_ActivityKernel10 *)record;
      add(kernel->name, kernel->end - kernel->start);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      CUpti_ActivityMemcpy6 *copy = (CUpti_ActivityMemcpy6 *)record;
      add("[memory copy]", copy->end - copy->start);
    }
  pthread_mutex_unlock(&lock);
  free(buffer);
}

static void write_times(void) {
  cuptiActivityFlushAll(1);
  const char *path = getenv("PODIUM_KERNEL_TIMES");
  FILE *file = path ? fopen(path, "w") : stderr;
  if (!file) return;
  fprintf(file, "{\"kernels\": [");
  for (int place = 0; place < known; place++)
    fprintf(file, "%s{\"name\": \"%s\", \"count\": %lu, \"ns\": %lu}", place ? ",\n" : "", kernels[place].name,
            kernels[place].count, kernels[place].ns);
  fprintf(file, "]}\n");
  if (path) fclose(file);
}

// The driver calls this when it starts.
int InitializeInjection(void) {
  if (cuptiActivityRegisterCallbacks(give_buffer, take_buffer) != CUPTI_SUCCESS) return 0;
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
  atexit(write_times);
  return 1;
}
