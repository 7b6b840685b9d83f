import {
  type MemoryConnection,
  MemoryHub,
  type MemoryNetwork,
} from "../../../node/network/memory-network.ts";
import type { Network } from "../../../node/network/network.ts";
import { networkContract } from "../../contract/network.contract.ts";

const WINDOW_SIZE = 4 << 20;

networkContract("MemoryNetwork", async () => {
  const hub = new MemoryHub({ windowSizeBytes: WINDOW_SIZE, frameSizeMax: 2 << 20 });
  const hosts: MemoryNetwork[] = [];
  return {
    aheadSizeMax: WINDOW_SIZE + (2 << 20),
    host: async (options) => {
      const host = hub.join(`host-${hosts.length}`, options);
      hosts.push(host);
      await host.start();
      return host;
    },
    severable: async (host: Network) => ({
      address: host.addresses()[0]!,
      sever: () => {
        for (const connection of host.connections()) (connection as MemoryConnection).cut();
      },
    }),
    stop: async () => {
      for (const host of hosts) await host.stop();
    },
  };
});
