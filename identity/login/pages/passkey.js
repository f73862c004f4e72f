// Passkeys on the pages: what the server wants is in the form, the browser's answer goes back in it.
"use strict";

const bytes = (s) => Uint8Array.from(atob(s.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (b) => btoa(Array.from(new Uint8Array(b), (c) => String.fromCharCode(c)).join("")).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const ids = (list) => (list ?? []).map((c) => ({ ...c, id: bytes(c.id) }));

function answer(c) {
    const r = c.response;
    const response = { clientDataJSON: text(r.clientDataJSON) };
    if (r.attestationObject) {
        response.attestationObject = text(r.attestationObject);
        response.transports = r.getTransports ? r.getTransports() : [];
    } else {
        response.authenticatorData = text(r.authenticatorData);
        response.signature = text(r.signature);
        if (r.userHandle) response.userHandle = text(r.userHandle);
    }
    return JSON.stringify({ id: c.id, rawId: text(c.rawId), type: c.type, authenticatorAttachment: c.authenticatorAttachment ?? undefined, clientExtensionResults: {}, response });
}

function prepare(form) {
    const o = JSON.parse(form.dataset.options);
    o.challenge = bytes(o.challenge);
    const make = form.dataset.passkey === "create";
    if (make) {
        o.user.id = bytes(o.user.id);
        o.excludeCredentials = ids(o.excludeCredentials);
    } else {
        o.allowCredentials = ids(o.allowCredentials);
    }
    const problem = form.querySelector("[data-problem]");
    let waiting;
    // One question at a time: the one in the name field gives way to the button's.
    const ask = async (more) => {
        waiting?.abort();
        const mine = (waiting = new AbortController());
        const options = { publicKey: o, signal: mine.signal, ...more };
        try {
            const c = await (make ? navigator.credentials.create(options) : navigator.credentials.get(options));
            form.elements.namedItem("response").value = answer(c);
            form.submit();
        } catch (e) {
            if (mine.signal.aborted || more) return;
            problem.textContent = e.name === "InvalidStateError" ? form.dataset.there : form.dataset.failed;
            problem.hidden = false;
        }
    };
    form.hidden = false;
    for (const e of document.querySelectorAll("[data-no-passkeys]")) e.hidden = true;
    form.addEventListener("submit", (e) => {
        e.preventDefault();
        problem.hidden = true;
        ask();
    });
    if (form.dataset.conditional !== undefined) {
        PublicKeyCredential.isConditionalMediationAvailable?.().then((can) => can && ask({ mediation: "conditional" }), () => undefined);
    }
}

if (window.PublicKeyCredential) for (const form of document.querySelectorAll("form[data-passkey]")) prepare(form);
