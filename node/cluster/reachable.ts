/** Addresses as the member list has them: without the host's id, and such as others can use. */

import { ADDRESS_LENGTH_MAX, ADDRESSES_MAX } from "../../protocol/members/statement.ts";

const LOOPBACK = /^\/(?:ip4\/127\.|ip6\/::1\/)/;

/** Loopback only where there is nothing else: a cluster on one machine. */
export function reachable(addresses: readonly string[]): string[] {
  const bare = addresses
    .map((address) => address.split("/p2p/")[0]!)
    .filter((address) => address.length <= ADDRESS_LENGTH_MAX);
  const others = bare.filter((address) => !LOOPBACK.test(address));
  return [...new Set(others.length > 0 ? others : bare)].sort().slice(0, ADDRESSES_MAX);
}
