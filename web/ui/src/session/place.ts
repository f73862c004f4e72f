// What signing in needs before the SDK is loaded: who we are, where the server is, and whether this page load comes
// back from the sign-in page.
export const clientId = "holdfast-web";

/** The homeserver is always the one that served this page: the security policy allows no other. */
export const homeserver = location.origin;

export class LoginError extends Error {
    constructor(
        readonly kind: "offline" | "server" | "denied" | "expired",
        cause?: unknown,
    ) {
        super(kind, { cause });
    }
}

/** answer is what the sign-in page said, in the fragment or in the query. */
export function answer(): URLSearchParams {
    const fragment = new URLSearchParams(location.hash.slice(1));
    return fragment.has("state") ? fragment : new URLSearchParams(location.search);
}

/** returning says whether this page load comes back from the sign-in page. */
export function returning(): boolean {
    return answer().has("state");
}
