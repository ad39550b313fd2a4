// Live pages: filled by the dashboard and the connections page.
