// The browser of a person who signs in at the pages, played by fetch.

// Browser keeps cookies and follows redirects until they leave the server.
export class Browser {
  cookies = new Map();

  constructor(baseUrl, localpart, password) {
    Object.assign(this, { baseUrl, localpart, password });
  }

  async open(url, form) {
    for (let hops = 0; hops < 10; hops++) {
      const res = await fetch(url, {
        method: form ? "POST" : "GET",
        body: form && new URLSearchParams(form),
        redirect: "manual",
        headers: {
          cookie: [...this.cookies].map(([k, v]) => `${k}=${v}`).join("; "),
          ...(form && { origin: new URL(url).origin }),
        },
      });
      for (const c of res.headers.getSetCookie()) {
        const [, name, value] = c.match(/^([^=]+)=([^;]*)/);
        this.cookies.set(name, value);
      }
      const to = res.headers.get("location");
      if (!to) return { url, status: res.status, text: await res.text() };
      url = new URL(to, url).href;
      form = undefined;
      if (!url.startsWith(this.baseUrl)) return { url, status: res.status };
      if (new URL(url).pathname === "/oauth2/authorize/callback") this.callback = url;
    }
    throw new Error("too many redirects");
  }

  // signIn answers the pages and gives the address that the application is sent to.
  async signIn(url) {
    let at = await this.open(url);
    for (const [path, form] of [["/login", { username: this.localpart, password: this.password }], ["/consent", { answer: "yes" }]]) {
      if (new URL(at.url).pathname === path) at = await this.open(at.url, form);
    }
    return new URL(at.url);
  }
}
