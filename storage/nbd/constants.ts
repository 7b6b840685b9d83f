/**
 * The numbers of the NBD protocol under their specification names (doc/proto.md of the NBD project).
 * All integers on the wire are big-endian. Numbers are the specification's: never reused, never ours.
 */

/** "NBDMAGIC", then "IHAVEOPT": the first sixteen octets that a newstyle server sends. */
export const NBD_MAGIC = 0x4e42444d41474943n;
export const NBD_IHAVEOPT = 0x49484156454f5054n;
export const NBD_OPT_REPLY_MAGIC = 0x0003e889045565a9n;

export const NBD_REQUEST_MAGIC = 0x25609513;
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const NBD_FLAG_FIXED_NEWSTYLE = 1 << 0;
export const NBD_FLAG_NO_ZEROES = 1 << 1;
/** The client answers with the same bits. */
export const NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0;
export const NBD_FLAG_C_NO_ZEROES = 1 << 1;

export const NBD_OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  // PEEK_EXPORT: 4, withdrawn
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

const ERR = 0x80000000;
export const NBD_REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: ERR + 1,
  ERR_POLICY: ERR + 2,
  ERR_INVALID: ERR + 3,
  ERR_PLATFORM: ERR + 4,
  ERR_TLS_REQD: ERR + 5,
  ERR_UNKNOWN: ERR + 6,
  ERR_SHUTDOWN: ERR + 7,
  ERR_BLOCK_SIZE_REQD: ERR + 8,
  ERR_TOO_BIG: ERR + 9,
} as const;

export const NBD_INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

/** Transmission flags of an export. */
export const NBD_FLAG = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_RESIZE: 1 << 9,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
} as const;

export const NBD_CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
  RESIZE: 8,
} as const;

export const NBD_CMD_FLAG = {
  FUA: 1 << 0,
  NO_HOLE: 1 << 1,
  DF: 1 << 2,
  REQ_ONE: 1 << 3,
  FAST_ZERO: 1 << 4,
} as const;

export const NBD_REPLY_FLAG_DONE = 1 << 0;

const ERROR_CHUNK = 1 << 15;
export const NBD_REPLY_TYPE = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  ERROR: ERROR_CHUNK + 1,
  ERROR_OFFSET: ERROR_CHUNK + 2,
} as const;

/** Flags of an extent of `base:allocation`. */
export const NBD_STATE_HOLE = 1 << 0;
export const NBD_STATE_ZERO = 1 << 1;

/** Error numbers of a reply: Linux's, whatever the host is. */
export const NBD_ERRNO = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

export const REQUEST_SIZE_BYTES = 28;
export const SIMPLE_REPLY_SIZE_BYTES = 16;
export const STRUCTURED_REPLY_SIZE_BYTES = 20;
/** A data chunk's header is followed by the offset of its data. */
export const DATA_CHUNK_HEADER_SIZE_BYTES = STRUCTURED_REPLY_SIZE_BYTES + 8;

/** What clients may assume of a server that announces nothing, and what ours announces as its largest payload. */
export const PAYLOAD_SIZE_BYTES_MAX = 32 << 20;
export const BLOCK_SIZE_BYTES_MIN = 1;
/** A vbd's block: a write of whole blocks never needs one from the other host. */
export const BLOCK_SIZE_BYTES_PREFERRED = 4096;

/** The specification's limit of a name, a description or a query. */
export const STRING_SIZE_BYTES_MAX = 4096;
/** The data of an option: two names of the largest size and room. A larger one is skipped and refused. */
export const OPTION_SIZE_BYTES_MAX = 16 << 10;
/** Options of one negotiation: the most eager clients send about ten; a loop of them is no client. */
export const OPTIONS_MAX = 256;
export const META_QUERIES_MAX = 64;
/** Contexts that one connection can select; each costs a chunk per block-status request. */
export const META_CONTEXTS_MAX = 16;
/** Extents in one chunk: 32 KiB. The client asks again from where the reply ended. */
export const EXTENTS_MAX = 4096;
