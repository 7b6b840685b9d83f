/**
 * What can go wrong between two hosts. Callers match on `code`; the text is for people.
 *
 * Only NETWORK_LOST says nothing about whose fault it is: a link, a host or a peer that gave up. A migration
 * pauses on it and resumes; it never restarts.
 */

export type NetworkErrorDetail =
  /** The text is not a multiaddr that this transport can dial. */
  | { code: "NETWORK_BAD_ADDRESS"; address: string }
  /** None of the addresses to listen on could be opened. */
  | { code: "NETWORK_LISTEN_FAILED"; addresses: string; reason: string }
  /** Nobody answers at the address: refused by the system, no route, or silence. */
  | { code: "NETWORK_UNREACHABLE"; address: string; reason: string }
  /** Somebody answered and did not let us in: another cluster secret, an allow list, a limit, no common encryption. */
  | { code: "NETWORK_REFUSED"; address: string; reason: string }
  /** The host that answers cannot prove the identity that the address names. */
  | { code: "NETWORK_WRONG_PEER"; address: string }
  /** The peer does not speak that protocol, or not that version of it. */
  | { code: "NETWORK_NO_PROTOCOL"; peer: string; protocol: string }
  /** The channel or its connection ended without the peer having said so. */
  | { code: "NETWORK_LOST"; peer: string; reason: string }
  /** We closed it ourselves and used it afterwards. */
  | { code: "NETWORK_CLOSED"; peer: string; what: "channel" | "connection" | "network" }
  /** A frame announced more bytes than the channel carries. */
  | { code: "NETWORK_FRAME_TOO_LARGE"; peer: string; sizeBytes: number; limitBytes: number }
  /** The peer ended the channel inside a frame. */
  | { code: "NETWORK_FRAME_TRUNCATED"; peer: string; sizeBytes: number };

export class NetworkError extends Error {
  readonly code: NetworkErrorDetail["code"];
  readonly detail: NetworkErrorDetail;

  constructor(detail: NetworkErrorDetail, options?: ErrorOptions) {
    const { code, ...fields } = detail;
    super(`${code} ${JSON.stringify(fields)}`, options);
    this.name = "NetworkError";
    this.code = code;
    this.detail = detail;
  }
}
