/// The parts of Move's standard library that the contract and its tests need.
module std::signer {
    native public fun borrow_address(s: &signer): &address;

    public fun address_of(s: &signer): address {
        *borrow_address(s)
    }
}

module std::vector {
    #[bytecode_instruction]
    native public fun empty<Element>(): vector<Element>;

    #[bytecode_instruction]
    native public fun length<Element>(self: &vector<Element>): u64;

    #[bytecode_instruction]
    native public fun borrow<Element>(self: &vector<Element>, i: u64): &Element;

    #[bytecode_instruction]
    native public fun push_back<Element>(self: &mut vector<Element>, e: Element);

    #[bytecode_instruction]
    native public fun borrow_mut<Element>(self: &mut vector<Element>, i: u64): &mut Element;

    #[bytecode_instruction]
    native public fun pop_back<Element>(self: &mut vector<Element>): Element;

    #[bytecode_instruction]
    native public fun destroy_empty<Element>(self: vector<Element>);

    #[bytecode_instruction]
    native public fun swap<Element>(self: &mut vector<Element>, i: u64, j: u64);

    public fun is_empty<Element>(self: &vector<Element>): bool {
        length(self) == 0
    }

    public fun append<Element>(self: &mut vector<Element>, other: vector<Element>) {
        reverse(&mut other);
        while (!is_empty(&other)) push_back(self, pop_back(&mut other));
        destroy_empty(other);
    }

    public fun reverse<Element>(self: &mut vector<Element>) {
        let (i, n) = (0, length(self));
        while (2 * i + 1 < n) {
            swap(self, i, n - 1 - i);
            i = i + 1;
        };
    }

    public fun contains<Element>(self: &vector<Element>, e: &Element): bool {
        for (i in 0..length(self)) {
            if (borrow(self, i) == e) return true;
        };
        false
    }
}

module std::option {
    use std::vector;

    const EOPTION_NOT_SET: u64 = 0x40001;

    struct Option<Element> has copy, drop, store { vec: vector<Element> }

    public fun none<Element>(): Option<Element> {
        Option { vec: vector[] }
    }

    public fun some<Element>(e: Element): Option<Element> {
        Option { vec: vector[e] }
    }

    public fun is_none<Element>(self: &Option<Element>): bool {
        vector::is_empty(&self.vec)
    }

    public fun is_some<Element>(self: &Option<Element>): bool {
        !vector::is_empty(&self.vec)
    }

    public fun borrow<Element>(self: &Option<Element>): &Element {
        assert!(is_some(self), EOPTION_NOT_SET);
        vector::borrow(&self.vec, 0)
    }

    public fun extract<Element>(self: &mut Option<Element>): Element {
        assert!(is_some(self), EOPTION_NOT_SET);
        vector::pop_back(&mut self.vec)
    }
}

module std::string {
    const EINVALID_UTF8: u64 = 1;

    struct String has copy, drop, store { bytes: vector<u8> }

    native public fun internal_check_utf8(v: &vector<u8>): bool;

    public fun utf8(bytes: vector<u8>): String {
        assert!(internal_check_utf8(&bytes), EINVALID_UTF8);
        String { bytes }
    }

    public fun bytes(self: &String): &vector<u8> {
        &self.bytes
    }
}

module std::bcs {
    native public fun to_bytes<MoveValue>(v: &MoveValue): vector<u8>;
}

module std::hash {
    native public fun sha3_256(data: vector<u8>): vector<u8>;
}
