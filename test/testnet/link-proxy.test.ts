import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { buffer } from "node:stream/consumers";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { LinkProxy } from "../../testnet/link-proxy.ts";

let server: Server;
let targetPort: number;
/** Connections that reached the target, oldest first. */
let arrived: Socket[];
let waiting: ((socket: Socket) => void)[];
let proxies: LinkProxy[];

beforeEach(async () => {
  arrived = [];
  waiting = [];
  proxies = [];
  server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => undefined);
    arrived.push(socket);
    waiting.shift()?.(socket);
  });
  server.listen({ host: "127.0.0.1", port: 0 });
  await once(server, "listening");
  targetPort = (server.address() as { port: number }).port;
});

afterEach(async () => {
  await Promise.all(proxies.map((proxy) => proxy.stop()));
  for (const socket of arrived) socket.destroy();
  server.close();
  await once(server, "close");
});

async function startProxy(bytesPerSecondMax?: number): Promise<LinkProxy> {
  const proxy = new LinkProxy({
    targetPort,
    ...(bytesPerSecondMax === undefined ? {} : { bytesPerSecondMax }),
  });
  proxies.push(proxy);
  await proxy.start();
  return proxy;
}

async function dial(proxy: LinkProxy): Promise<Socket> {
  const socket = connect({ host: "127.0.0.1", port: proxy.port, allowHalfOpen: true });
  socket.on("error", () => undefined);
  await once(socket, "connect");
  return socket;
}

function arrival(): Promise<Socket> {
  return new Promise((resolve) => waiting.push(resolve));
}

async function dialThrough(proxy: LinkProxy): Promise<{ near: Socket; far: Socket }> {
  const coming = arrival();
  return { near: await dial(proxy), far: await coming };
}

const PATTERN = Buffer.from(Array.from({ length: 1 << 20 }, (_, index) => (index * 7 + (index >> 8)) & 0xff));

describe("a link", () => {
  it("carries every byte both ways, in order, and counts them", async () => {
    const proxy = await startProxy();
    const { near, far } = await dialThrough(proxy);
    near.end(PATTERN);
    far.end("answer");
    const [there, back] = await Promise.all([buffer(far), buffer(near)]);
    expect(there.equals(PATTERN)).toBe(true);
    expect(back.toString()).toBe("answer");
    expect(proxy.bytes()).toEqual({ sent: PATTERN.length, received: 6 });
  });

  it("that is cut resets its connections, refuses new ones, and comes back on the same port", async () => {
    const proxy = await startProxy();
    const { near, far } = await dialThrough(proxy);
    const ends = [near, far].map(
      (socket) => new Promise<void>((resolve) => socket.on("close", () => resolve())),
    );
    await proxy.cut();
    await Promise.all(ends);
    expect(proxy.connections).toBe(0);
    const port = proxy.port;
    const refused = connect({ host: "127.0.0.1", port });
    const [error] = (await once(refused, "error")) as [NodeJS.ErrnoException];
    expect(error.code).toBe("ECONNREFUSED");

    await proxy.heal();
    expect(proxy.port).toBe(port);
    const again = await dialThrough(proxy);
    again.near.end("here");
    expect((await buffer(again.far)).toString()).toBe("here");
  });

  it("that stalls accepts and moves nothing, and loses nothing when it heals", async () => {
    const proxy = await startProxy();
    const { near, far } = await dialThrough(proxy);
    near.write("before ");
    await once(far, "readable");
    expect(far.read().toString()).toBe("before ");

    await proxy.stall();
    near.end("during");
    const late = await dial(proxy);
    late.end("late");
    // Something that does move over loopback takes less time than this connection's whole life.
    const other = await startProxy();
    const witness = await dialThrough(other);
    witness.near.end("witness");
    expect((await buffer(witness.far)).toString()).toBe("witness");
    expect(far.read()).toBeNull();
    expect(arrived).toHaveLength(2);
    expect(proxy.bytes().sent).toBe("before ".length);

    const coming = arrival();
    await proxy.heal();
    expect((await buffer(far)).toString()).toBe("during");
    expect((await buffer(await coming)).toString()).toBe("late");
  });

  it("stops a sender whose peer does not read", async () => {
    const proxy = await startProxy();
    const { near, far } = await dialThrough(proxy);
    far.pause();
    const pump = (socket: Socket, mebibytes: number): Promise<void> =>
      new Promise((resolve) => {
        let written = 0;
        const more = (): void => {
          while (written < mebibytes) {
            written++;
            if (!socket.write(PATTERN)) return;
          }
          resolve();
        };
        socket.on("drain", more);
        more();
      });
    const full = pump(near, 64);
    // As much as that, sent meanwhile to somebody who does read, arrives whole.
    const witness = await dialThrough(await startProxy());
    const taken = buffer(witness.far);
    await pump(witness.near, 64);
    witness.near.end();
    expect((await taken).length).toBe(64 * PATTERN.length);
    expect(proxy.bytes().sent).toBeLessThan((64 * PATTERN.length) / 2);
    far.resume();
    await full;
    near.destroy();
  });

  it("with a limit is no faster than that", async () => {
    const proxy = await startProxy(10 << 20);
    const { near, far } = await dialThrough(proxy);
    const startedAtMs = performance.now();
    near.end(Buffer.concat([PATTERN, PATTERN]));
    const there = await buffer(far);
    // The last chunk is not waited for.
    expect(performance.now() - startedAtMs).toBeGreaterThan(150);
    expect(there.length).toBe(2 * PATTERN.length);
  });
});
