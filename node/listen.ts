/** Where a daemon listens, as people write it: `10.0.0.5:4701`, `[::]:4701`; port 0 lets the system choose. */
import { isIP } from "node:net";

export type ListenAddress = { readonly host: string; readonly port: number };

/** Undefined when `text` is none. An IP address, no name: a name may come to mean another interface. */
export function parseListen(text: string): ListenAddress | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2] ?? "";
  const port = Number(match?.[3] ?? Number.NaN);
  const family = match?.[1] === undefined ? 4 : 6;
  return isIP(host) === family && port <= 65_535 ? { host, port } : undefined;
}

/** The multiaddr for libp2p. `text` has passed `parseListen`. */
export function listenMultiaddr(text: string): string {
  const address = parseListen(text);
  if (address === undefined) throw new TypeError(`${text} is no address to listen on`);
  return `/ip${isIP(address.host)}/${address.host}/tcp/${address.port}`;
}
