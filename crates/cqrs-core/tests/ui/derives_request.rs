//! What `#[derive(Request)]` refuses.
use cqrs_core::Request;

#[derive(Request)]
#[request(respone = u32)]
struct Unknown;

#[derive(Request)]
#[request(item = u32)]
struct WithAnItem;

#[derive(Request)]
#[request(response = u32)]
#[request(response = u64)]
struct Twice;

#[derive(Request)]
#[request(response = "u32")]
struct Quoted;

#[derive(Request)]
#[request(response)]
struct WithoutValue;

#[derive(Request)]
#[request]
struct WithoutList;

#[derive(Request)]
#[request(name = CloseRoom)]
struct NameWithoutQuotes;

#[derive(Request)]
#[request(error = MyError)]
struct ErrorWithoutFrom;

struct MyError;

#[derive(Request)]
struct Borrows<'a> {
    room: &'a str,
}

#[derive(Request)]
union Either {
    one: u32,
    two: f32,
}

fn main() {}
