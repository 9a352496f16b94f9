//! The kinds as the API server and their readers see them.

mod api_server;
mod client_side;
mod corpus;
mod versions;
