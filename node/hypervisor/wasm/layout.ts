/**
 * Where everything lies in a guest's linear memory: the one list both sides read. The guest (AssemblyScript)
 * and the host (TypeScript) import this same file, so it holds plain numbers only.
 *
 *    0x0000  CPU state: parameters, progress, counters          \
 *    0x1000  vbd records (VBDS_MAX), error records (ERRORS_MAX)  > copied in every pass, never in the dirty log
 *    0x2000  request ring (SLOTS_MAX)                           /
 *   0x10000  one 64 KiB buffer per slot
 *  0x210000  dirty log: one byte per 4 KiB page; belongs to the host, is no state and does not travel
 *       ...  tables of sector states and image hashes, then the memory that the workload touches
 *
 * Integers are little-endian, as WebAssembly's are.
 */

export const PAGE_BYTES: u32 = 4096;
export const SECTOR_BYTES: u32 = 512;
export const BLOCK_BYTES: u32 = 4096;
/** The piece in which a vbd's working set is laid out; also the most that one request moves. */
export const CHUNK_BYTES: u32 = 65536;
export const SECTORS_PER_BLOCK: u32 = 8;
export const SECTORS_PER_CHUNK: u32 = 128;
export const BLOCKS_PER_CHUNK: u32 = 16;

export const MEMORY_BYTES_MIN: u32 = 4194304;

/** Pages below this address are compared in every pass, whether the log names them or not. */
export const ALWAYS_DIRTY_BYTES: u32 = 0x3000;
export const VBD_RECORDS: u32 = 0x1000;
export const ERROR_RECORDS: u32 = 0x1800;
export const RING: u32 = 0x2000;
export const BUFFERS: u32 = 0x10000;
export const DIRTY_LOG: u32 = 0x210000;

export const VBDS_MAX: u32 = 16;
export const ERRORS_MAX: u32 = 16;
export const SLOTS_MAX: u32 = 32;

/** "SJGW": this memory was booted by a guest of this layout. */
export const GUEST_MAGIC: u32 = 0x57474a53;
export const GUEST_VERSION: u32 = 1;
/** A rate without limit; also "nothing to do until a request completes" as the answer of a step. */
export const UNLIMITED: u32 = 0x7fffffff;
/** Likewise, and there is something to do then. */
export const BLOCKED: u32 = 0x7ffffffe;

// The CPU state. Each offset is a u32 unless its comment says u64.
export const S_MAGIC: u32 = 0;
export const S_VERSION: u32 = 4;
export const S_MEMORY_BYTES: u32 = 8;
export const S_WORKLOAD: u32 = 12;
/** u64 */
export const S_SEED: u32 = 16;
/** u64: the state of the guest's random generator */
export const S_RANDOM: u32 = 24;
export const S_VBD_COUNT: u32 = 32;
export const S_DISK_RATE: u32 = 36;
export const S_MEMORY_RATE: u32 = 40;
export const S_IMAGE_RATE: u32 = 44;
/** The most requests of the workload in flight. */
export const S_DEPTH: u32 = 48;
/** Written by the host: see COMMAND_*. */
export const S_COMMAND: u32 = 52;
export const S_HALTED: u32 = 56;
/** The number of the verify pass that runs or ran last, and of the last one that ended. */
export const S_VERIFY_STARTED: u32 = 60;
export const S_VERIFY_ENDED: u32 = 64;
/** u64 each: the last pass's figures */
export const S_VERIFY_BLOCKS: u32 = 72;
export const S_VERIFY_PAGES: u32 = 80;
export const S_VERIFY_ERRORS: u32 = 88;
export const S_VERIFY_VBD: u32 = 96;
export const S_VERIFY_CHUNK: u32 = 100;
export const S_VERIFY_PAGE: u32 = 104;
/** Where the fill is: vbd and chunk. */
export const S_FILL_VBD: u32 = 108;
export const S_FILL_CHUNK: u32 = 112;
/** The workload's place: phase, vbd and position of a sequential pass. */
export const S_PHASE: u32 = 116;
export const S_PHASE_VBD: u32 = 120;
export const S_PHASE_CURSOR: u32 = 124;
/** u64 each, in millionths of an operation */
export const S_DISK_TOKENS: u32 = 128;
export const S_MEMORY_TOKENS: u32 = 136;
export const S_IMAGE_TOKENS: u32 = 144;
/** The touched memory: address of its sector table, of its first page, its pages, and how many are stamped. */
export const S_TOUCHED_TABLE: u32 = 152;
export const S_TOUCHED_START: u32 = 156;
export const S_TOUCHED_PAGES: u32 = 160;
export const S_TOUCHED_STAMPED: u32 = 164;
export const S_IMAGE_VBD: u32 = 168;
export const S_SINCE_FLUSH: u32 = 172;
/** Which vbds were told to flush at shutdown, one bit each. */
export const S_SHUTDOWN_FLUSHED: u32 = 176;
/** Requested by the boot, in bytes; u64 each. */
export const S_FILL_BYTES: u32 = 184;
export const S_TOUCHED_BYTES: u32 = 192;
export const S_WORKING_SET_BYTES: u32 = 200;
/** 1: the last step left work that can go on as soon as a request completes. */
export const S_BLOCKED: u32 = 208;
/** 1: the workload writes whole blocks only. */
export const S_WHOLE_BLOCKS: u32 = 212;

// Counters, u64 each.
export const C_STEPS: u32 = 256;
export const C_UPTIME_MICROS: u32 = 264;
export const C_READS: u32 = 272;
export const C_WRITES: u32 = 280;
export const C_FLUSHES: u32 = 288;
export const C_TRIMS: u32 = 296;
export const C_ZEROES: u32 = 304;
export const C_BYTES_READ: u32 = 312;
export const C_BYTES_WRITTEN: u32 = 320;
export const C_SECTORS_VERIFIED: u32 = 328;
export const C_PAGES_TOUCHED: u32 = 336;
export const C_ERRORS: u32 = 344;
export const C_FILLED_BYTES: u32 = 352;
export const C_IMAGE_BLOCKS_VERIFIED: u32 = 360;
export const C_IMAGE_PASSES: u32 = 368;

export const COMMAND_NONE: u32 = 0;
export const COMMAND_SHUTDOWN: u32 = 1;

export const WORKLOAD_IDLE: u32 = 0;
export const WORKLOAD_WEB: u32 = 1;
export const WORKLOAD_VIDEO: u32 = 2;
export const WORKLOAD_DIABOLICAL: u32 = 3;

// A vbd record.
export const VBD_RECORD_BYTES: u32 = 128;
/** u64 */
export const V_SIZE_BYTES: u32 = 0;
export const V_FLAGS: u32 = 8;
/** Address of its table: u16 per sector of the working set, or for an image u32 per sampled block. */
export const V_TABLE: u32 = 12;
/** Chunks of the working set; chunk `i` of it lies at chunk `i * V_STRIDE` of the vbd. */
export const V_CHUNKS: u32 = 16;
export const V_STRIDE: u32 = 20;
export const V_FILL_CHUNKS: u32 = 24;
export const V_CURSOR: u32 = 28;
export const VBD_IMAGE: u32 = 1;

// A sector's state in a table: a counter of its writes, and what became of it since.
export const COUNTER_MASK: u32 = 0x3fff;
/** A write of zeroes was the last: reads as zero. */
export const SECTOR_ZERO: u32 = 0x8000;
/** Trimmed, or a write failed: may read as anything. */
export const SECTOR_UNKNOWN: u32 = 0x4000;

// A slot of the request ring.
export const SLOT_BYTES: u32 = 64;
export const R_STATE: u32 = 0;
export const R_OP: u32 = 4;
export const R_VBD: u32 = 8;
export const R_LENGTH: u32 = 12;
/** u64 */
export const R_OFFSET: u32 = 16;
export const R_BUFFER: u32 = 24;
/** Counts the slot's uses. */
export const R_COOKIE: u32 = 28;
/** The guest's own: what the request is for, and which sectors of which chunk of the working set. */
export const R_PURPOSE: u32 = 32;
export const R_CHUNK: u32 = 36;
export const R_SECTOR: u32 = 40;
export const R_SECTORS: u32 = 44;
export const R_ERROR: u32 = 48;

export const SLOT_FREE: u32 = 0;
/** Waits for the host. From here on until DONE or ERROR, a write's buffer does not change. */
export const SLOT_QUEUED: u32 = 1;
export const SLOT_ISSUED: u32 = 2;
export const SLOT_DONE: u32 = 3;
export const SLOT_ERROR: u32 = 4;

export const OP_READ: u32 = 0;
export const OP_WRITE: u32 = 1;
export const OP_FLUSH: u32 = 2;
export const OP_TRIM: u32 = 3;
export const OP_ZERO: u32 = 4;

export const FOR_WORKLOAD: u32 = 0;
export const FOR_VERIFY: u32 = 1;
export const FOR_IMAGE: u32 = 2;

// An error record.
export const ERROR_RECORD_BYTES: u32 = 64;
export const E_KIND: u32 = 0;
export const E_VBD: u32 = 4;
/** u64 each: byte offset on the vbd or address in memory, and two words expected and found */
export const E_OFFSET: u32 = 8;
export const E_EXPECTED: u32 = 16;
export const E_FOUND: u32 = 32;

export const ERROR_READ: u32 = 1;
export const ERROR_VERIFY: u32 = 2;
export const ERROR_MEMORY: u32 = 3;
export const ERROR_IMAGE: u32 = 4;
export const ERROR_IO: u32 = 5;

/** What a stamp of touched memory names as its vbd. */
export const MEMORY_VBD: u32 = 0xffff;
