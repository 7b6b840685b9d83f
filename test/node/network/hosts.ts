/** Started Libp2pNetworks on loopback, and a TCP relay that can count, stop and cut what goes through it. */

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { generateKeyPair } from "@libp2p/crypto/keys";
import type { PrivateKey } from "@libp2p/interface";
import { Libp2pNetwork, type Libp2pNetworkOptions } from "../../../node/network/libp2p-network.ts";
import type { Network } from "../../../node/network/network.ts";

const silent = { debug: () => {}, info: () => {}, warn: () => {} };

export class Hosts {
  readonly #running: { stop(): Promise<void> }[] = [];

  async start(options: Partial<Libp2pNetworkOptions> = {}): Promise<Libp2pNetwork> {
    const host = await this.create(options);
    await host.start();
    return host;
  }

  async create(options: Partial<Libp2pNetworkOptions> = {}, identity?: PrivateKey): Promise<Libp2pNetwork> {
    const privateKey = identity ?? (await generateKeyPair("Ed25519"));
    const listen = ["/ip4/127.0.0.1/tcp/0"];
    const host = new Libp2pNetwork({ privateKey, log: silent }, { listen, role: "data", ...options });
    this.#running.push(host);
    return host;
  }

  async relay(host: Network): Promise<Relay> {
    const relay = new Relay(host);
    await relay.start();
    this.#running.push(relay);
    return relay;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#running.splice(0).map((part) => part.stop()));
  }
}

export class Relay {
  address = "";
  /** Bytes that came from diallers, and from the host behind. */
  bytesIn = 0;
  bytesBack = 0;
  onBytes: (bytes: Buffer) => void = () => {};
  readonly #host: Network;
  /** Each socket, and the one its bytes go to. */
  readonly #sockets = new Map<Socket, Socket>();
  readonly #server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));

  constructor(host: Network) {
    this.#host = host;
  }

  async start(): Promise<void> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    const { port } = this.#server.address() as AddressInfo;
    this.address = `/ip4/127.0.0.1/tcp/${port}/p2p/${this.#host.self}`;
  }

  /** Both ends see their socket end without a word of the protocols above: a FIN, like a host that dies. */
  sever(): void {
    for (const socket of this.#sockets.keys()) socket.destroy();
  }

  /** Both ends see a reset. */
  reset(): void {
    for (const socket of this.#sockets.keys()) socket.resetAndDestroy();
  }

  /** Nothing goes through any more, and nobody is told. */
  freeze(): void {
    for (const socket of this.#sockets.keys()) socket.unpipe().pause();
  }

  thaw(): void {
    for (const [socket, other] of this.#sockets) socket.pipe(other);
  }

  async stop(): Promise<void> {
    this.sever();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, "close");
  }

  #accept(near: Socket): void {
    const port = Number(this.#host.addresses()[0]!.split("/")[4]);
    const far = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.set(socket, other);
      socket.on("error", () => socket.destroy());
      socket.on("close", () => this.#sockets.delete(socket));
    }
    near.on("data", (bytes) => {
      this.bytesIn += bytes.byteLength;
      this.onBytes(bytes);
    });
    far.on("data", (bytes) => (this.bytesBack += bytes.byteLength));
    near.pipe(far);
    far.pipe(near);
  }
}
