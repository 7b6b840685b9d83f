/** Failures of a QMP conversation. Match on `code`, never on the text. */
export type QmpErrorDetail =
  /** QEMU refused or failed a command. `class` and `description` are QEMU's own. */
  | { code: "QMP_ERROR"; command: string; class: string; description: string }
  /**
   * Nobody listens at the socket (`isAbsent`: then no QEMU has it), or nobody answers: a QMP socket serves one
   * client at a time.
   */
  | { code: "QMP_UNREACHABLE"; path: string; reason: string; isAbsent: boolean }
  /** The connection ended, and perhaps QEMU with it: whether the command was carried out is not known. */
  | { code: "QMP_CLOSED"; path: string; operation: string; reason: string }
  /** What came is not QMP, or too much of it at once. The connection was closed. */
  | { code: "QMP_BAD_PEER"; path: string; reason: string };

export type QmpErrorCode = QmpErrorDetail["code"];

export class QmpError extends Error {
  readonly code: QmpErrorCode;
  readonly detail: QmpErrorDetail;

  constructor(detail: QmpErrorDetail, options?: ErrorOptions) {
    super(`${detail.code}: ${sentenceOf(detail)}`, options);
    this.name = "QmpError";
    this.code = detail.code;
    this.detail = detail;
  }
}

function sentenceOf(detail: QmpErrorDetail): string {
  switch (detail.code) {
    case "QMP_ERROR":
      return `QEMU did not do ${detail.command}: ${detail.description}`;
    case "QMP_UNREACHABLE":
      return `QEMU's socket ${detail.path} cannot be used: ${detail.reason}`;
    case "QMP_CLOSED":
      return `the connection to ${detail.path} ended during ${detail.operation}: ${detail.reason}`;
    case "QMP_BAD_PEER":
      return `what answers at ${detail.path} does not speak QMP: ${detail.reason}`;
  }
}
