/**
 * Failures of storage that a correct program must expect: full disks, lost cables, closed stores, foreign files.
 * Callers match on `code`, never on the text. To add one: a line in the union, with the comment that documents it.
 */

export type StorageErrorDetail =
  /** The range does not lie inside the store. Nothing was done. */
  | { code: "STORAGE_OUT_OF_RANGE"; offset: number; length: number; sizeBytes: number }
  /** No space left, or a quota is used up: the operation may succeed once space was made. */
  | { code: "STORAGE_FULL"; operation: string }
  /** The disk or the kernel failed. Part of a write may have been done. */
  | { code: "STORAGE_IO"; operation: string; reason: string }
  /** A write to a store that was opened for reading. */
  | { code: "STORAGE_READ_ONLY"; operation: string }
  /** The store was closed before this operation. */
  | { code: "STORAGE_CLOSED"; operation: string }
  /** The vbd is frozen: no write is accepted until it is thawed, and none after a handover. */
  | { code: "STORAGE_FENCED"; operation: string }
  /** A read or write waited for blocks of the source, and the store was closed before they came. */
  | { code: "STORAGE_PULL_FAILED"; operation: string; reason: string }
  /** Blocks that arrived do not fit the vbd or the octets that came with them. Nothing was stored. */
  | { code: "STORAGE_BAD_ARRIVAL"; reason: string }
  /** There is no such file or device. */
  | { code: "STORAGE_NOT_FOUND"; path: string }
  /** A file of that name is there already, and is left alone. */
  | { code: "STORAGE_EXISTS"; path: string }
  /** The file has another size than the vbd: it is not its copy, or it was resized. */
  | { code: "STORAGE_SIZE_MISMATCH"; path: string; sizeBytes: number; expectedBytes: number }
  /** A durable record cannot be believed: torn, foreign, or of another version. */
  | { code: "STORAGE_CORRUPT"; what: string; reason: string };

export type StorageErrorCode = StorageErrorDetail["code"];

export class StorageError extends Error {
  readonly code: StorageErrorCode;
  readonly detail: StorageErrorDetail;

  constructor(detail: StorageErrorDetail, options?: ErrorOptions) {
    const { code, ...fields } = detail;
    super(`${code} ${JSON.stringify(fields)}`, options);
    this.name = "StorageError";
    this.code = code;
    this.detail = detail;
  }
}

/** What a failed system call means: `ENOSPC` and `EDQUOT` are a full disk, the rest is I/O. Keeps a `StorageError`. */
export function storageErrorOf(cause: unknown, operation: string): StorageError {
  if (cause instanceof StorageError) return cause;
  const errno = errnoOf(cause);
  switch (errno) {
    case "ENOSPC":
    case "EDQUOT":
      return new StorageError({ code: "STORAGE_FULL", operation }, { cause });
    case "EROFS":
      return new StorageError({ code: "STORAGE_READ_ONLY", operation }, { cause });
    default: {
      const reason = errno ?? (cause instanceof Error ? cause.message : String(cause));
      return new StorageError({ code: "STORAGE_IO", operation, reason }, { cause });
    }
  }
}

/** The symbolic errno of a failed system call ("ENOENT"), where the error carries one. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
