/**
 * Failures between an NBD client and its server that a correct program must expect. Callers match on `code`.
 */

export type NbdErrorDetail =
  /** The other side broke the protocol. The connection is of no use any more. */
  | { code: "NBD_PROTOCOL"; reason: string }
  /** The server has no export of that name, or not at present. */
  | { code: "NBD_EXPORT_UNKNOWN"; reply: number }
  /** The server refused an option that we cannot do without. */
  | { code: "NBD_OPTION_REFUSED"; option: number; reply: number }
  /** The server answered a request with an error number (Linux's). */
  | { code: "NBD_REPLY_ERROR"; command: number; errno: number }
  /** The connection was lost or never made. Requests without an answer may or may not have been done. */
  | { code: "NBD_CONNECTION_LOST"; reason: string }
  /** The client was closed by its owner. */
  | { code: "NBD_CLOSED" }
  /** The export that answers now is not the one that the requests were meant for. */
  | { code: "NBD_SIZE_CHANGED"; sizeBytes: number; expectedBytes: number }
  /** An export of that name is registered already. */
  | { code: "NBD_EXPORT_EXISTS"; name: string }
  /** Another server listens on that unix socket. */
  | { code: "NBD_SOCKET_IN_USE"; path: string };

export type NbdErrorCode = NbdErrorDetail["code"];

export class NbdError extends Error {
  readonly code: NbdErrorCode;
  readonly detail: NbdErrorDetail;

  constructor(detail: NbdErrorDetail, options?: ErrorOptions) {
    const { code, ...fields } = detail;
    super(`${code} ${JSON.stringify(fields)}`, options);
    this.name = "NbdError";
    this.code = code;
    this.detail = detail;
  }
}
