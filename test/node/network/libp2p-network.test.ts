import { STREAM_WINDOW_SIZE } from "../../../node/network/libp2p-network.ts";
import { networkContract } from "../../contract/network.contract.ts";
import { Hosts } from "./hosts.ts";

for (const role of ["control", "data"] as const)
  networkContract(`Libp2pNetwork as ${role}`, async () => {
    const hosts = new Hosts();
    return {
      // A window, what the receiver holds before it pauses, and the frame at the sender that is half gone.
      aheadSizeMax: STREAM_WINDOW_SIZE + (2 << 20) + (512 << 10),
      host: ({ frameSizeMax = 2 << 20 } = {}) => hosts.start({ role, channel: { frameSizeMax } }),
      severable: async (host) => {
        const relay = await hosts.relay(host);
        return { address: relay.address, sever: () => relay.sever() };
      },
      stop: () => hosts.stop(),
    };
  });
