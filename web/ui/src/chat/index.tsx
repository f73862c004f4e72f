import type { MatrixClient } from "matrix-js-sdk";
import type { Security } from "../session/security";

export interface ChatProps {
    client: MatrixClient;
    security: Security;
    signOut: () => Promise<void>;
}

export default function Chat(_props: ChatProps) {
    return null;
}
