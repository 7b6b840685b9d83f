/**
 * Why a dial failed, as a `NetworkError`.
 *
 * libp2p wraps whatever an encrypter throws into an error that keeps only its text, so the encrypters are
 * watched: the error of each raw connection is remembered until its upgrade has failed.
 */

import type { ConnectionEncrypter, MultiaddrConnection } from "@libp2p/interface";
import { NetworkError } from "./errors.ts";

/** The connection was there, and then something in the handshakes failed. */
class UpgradeFailure extends Error {
  readonly wrongPeer: boolean;

  constructor(cause: unknown, { wrongPeer }: { wrongPeer: boolean }) {
    super(textOf(cause), { cause });
    this.name = "UpgradeFailure";
    this.wrongPeer = wrongPeer;
  }
}

export class HandshakeWatch {
  readonly #errors = new WeakMap<object, unknown>();

  /** The same encrypter; what it throws is remembered. */
  watch<Components>(make: (components: Components) => ConnectionEncrypter) {
    return (components: Components): ConnectionEncrypter => {
      const encrypter = make(components);
      for (const way of ["secureInbound", "secureOutbound"] as const) {
        const secure = encrypter[way].bind(encrypter);
        encrypter[way] = async (raw, options) => {
          try {
            return await secure(raw, options);
          } catch (error) {
            this.#errors.set(raw, error);
            throw error;
          }
        };
      }
      return encrypter;
    };
  }

  failureOf(raw: MultiaddrConnection, error: unknown): Error {
    const cause = this.#errors.get(raw) ?? error;
    return new UpgradeFailure(cause, { wrongPeer: nameOf(cause) === "UnexpectedPeerError" });
  }
}

/** Names of libp2p's errors that are about who may talk to whom, not about the way there. */
const REFUSALS = new Set(["DialDeniedError", "InvalidPeerIdError", "ConnectionInterceptedError"]);

export function dialFailure(error: unknown, address: string): NetworkError {
  const cause = error instanceof AggregateError && error.errors.length > 0 ? error.errors[0] : error;
  if (cause instanceof NetworkError) return cause;
  if (cause instanceof UpgradeFailure) {
    if (cause.wrongPeer) return new NetworkError({ code: "NETWORK_WRONG_PEER", address }, { cause });
    return new NetworkError({ code: "NETWORK_REFUSED", address, reason: cause.message }, { cause });
  }
  const code = REFUSALS.has(nameOf(cause)) ? "NETWORK_REFUSED" : "NETWORK_UNREACHABLE";
  return new NetworkError({ code, address, reason: textOf(cause) }, { cause });
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : "";
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
