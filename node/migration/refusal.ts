/** Why a destination does not take a domain, and which failures of a session no other session would heal. */

import { ProtocolError } from "../../protocol/errors.ts";
import { PROTOCOL_VERSION } from "../../protocol/limits.ts";

/** `cause`: a code of the destination's, or PEER_VERSION. */
export type Refusal = { cause: string; reason: string };

/**
 * A peer of another version, or one that talks nonsense: the next session would end as this one did. Undefined:
 * the link is to blame, and a link heals.
 */
export function hopelessFailure(
  error: unknown,
): { reason: string; refusal: Refusal | undefined } | undefined {
  const { code, message } = error as { code?: string; message: string };
  if (code === "NETWORK_NO_PROTOCOL" || code === "PROTOCOL_VERSION_MISMATCH") {
    const reason = `it speaks another version of the migration protocol than ours, ${PROTOCOL_VERSION} (${message})`;
    return { reason, refusal: { cause: "PEER_VERSION", reason } };
  }
  return error instanceof ProtocolError ? { reason: message, refusal: undefined } : undefined;
}
