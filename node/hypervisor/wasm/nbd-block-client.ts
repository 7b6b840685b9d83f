/** A vbd as the guest process reaches it: our NBD export on a unix socket, reconnected for as long as it takes. */

import { ReconnectingNbdClient } from "../../../storage/nbd/reconnecting-client.ts";
import type { VbdAttachment } from "../hypervisor.ts";
import type { BlockClient } from "./guest-runner.ts";

export function connectVbd({ name, sizeBytes, socketPath, exportName }: VbdAttachment): BlockClient {
  let told = false;
  return new ReconnectingNbdClient(
    { unixPath: socketPath },
    {
      exportName,
      sizeBytes,
      onStateChange: ({ state, error }) => {
        // Once per outage: it may last for days, and this log is not rotated.
        if (error && !told) console.error(`vbd ${name} ${state}: ${error.message}`);
        if (state === "connected" && told) console.error(`vbd ${name} is connected again`);
        told = error !== undefined;
      },
    },
  );
}
