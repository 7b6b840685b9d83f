/** A network on the given address that says by mDNS where it is: prints its id, then the first host that it hears. */

import { generateKeyPair } from "@libp2p/crypto/keys";
import { Libp2pNetwork } from "../../../node/network/libp2p-network.ts";

const [ip = ""] = process.argv.slice(2);
const say = (value: object): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
const log = { debug: () => undefined, info: () => undefined, warn: () => undefined };
const mdns = { onFound: (peer: string, addresses: readonly string[]) => say({ peer, addresses }) };
const network = new Libp2pNetwork(
  { privateKey: await generateKeyPair("Ed25519"), log },
  { role: "control", listen: [`/ip4/${ip}/tcp/0`], mdns },
);
await network.start();
say({ self: network.self });
// Until the parent has heard enough.
process.stdin.resume();
process.stdin.once("end", () => process.exit(0));
