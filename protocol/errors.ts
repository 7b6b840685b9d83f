/**
 * Failures a correct program must expect from a peer. Callers match on `code`, never on the text.
 *
 * A broken invariant is not one of these: `assert`, `fail` and `unreachable` mean that we are wrong,
 * and end the process; the journal makes that safe. No input from a peer may reach one of them.
 */

export type ProtocolErrorDetail =
  /** The peer sent a message that its current phase does not allow. */
  | { code: "PROTOCOL_UNEXPECTED_MESSAGE"; phase: string; message: string }
  /** A frame announced more bytes than its type may carry. */
  | { code: "PROTOCOL_FRAME_TOO_LARGE"; sizeBytes: number; limitBytes: number }
  /** The frame ended before its last field. */
  | { code: "PROTOCOL_FRAME_TRUNCATED"; sizeBytes: number; neededBytes: number }
  /** A field holds a value that the protocol does not allow. */
  | { code: "PROTOCOL_BAD_FIELD"; field: string; reason: string }
  /** The checksum of a frame does not match its bytes. */
  | { code: "PROTOCOL_BAD_CHECKSUM"; message: string }
  /** A mandatory message type this version does not know. */
  | { code: "PROTOCOL_UNKNOWN_MESSAGE"; type: number }
  /** The peer speaks a version that we do not. */
  | { code: "PROTOCOL_VERSION_MISMATCH"; ours: number; theirs: number };

export class ProtocolError extends Error {
  readonly code: ProtocolErrorDetail["code"];
  readonly detail: ProtocolErrorDetail;

  constructor(detail: ProtocolErrorDetail, options?: ErrorOptions) {
    const { code, ...fields } = detail;
    super(`${code} ${JSON.stringify(fields)}`, options);
    this.name = "ProtocolError";
    this.code = code;
    this.detail = detail;
  }
}

/** We are wrong: a state that the code was written to exclude. */
export class AssertionFailure extends Error {
  override readonly name = "AssertionFailure";
}

export function assert(condition: boolean, message = "invariant broken"): asserts condition {
  if (!condition) throw new AssertionFailure(message);
}

export function fail(message: string): never {
  throw new AssertionFailure(message);
}

export function unreachable(value: never): never {
  throw new AssertionFailure(`unreachable: ${JSON.stringify(value)}`);
}
